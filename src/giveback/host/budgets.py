"""One amount that many share: a limit in all, and one for each owner, so that no owner takes it all. Pure.

An owner is a uid, or anything else that is the same for all that belongs to one stranger.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

_ONE_USERS_BELOW = 1 << 16
_RANGE_BITS = 16


def owner_of(uid: int | None) -> Hashable:
    """Return to whom a uid belongs: users above 65535 come in ranges of 65536, one user's each.

    Whoever has a range of subordinate uids (subuid(5)) may run a process as each of them.
    """
    if uid is None or uid < _ONE_USERS_BELOW:
        return uid
    return ("range", uid >> _RANGE_BITS)


class Budget:
    """So much in all, and so much for each owner: `take` says whether there is that much left."""

    __slots__ = ("_each", "_in_all", "_taken", "_taken_in_all")

    def __init__(self, in_all: int, each: int) -> None:
        self._in_all = in_all
        self._each = each
        self._taken: dict[Hashable, int] = {}
        self._taken_in_all = 0

    def take(self, owner: Hashable, amount: int = 1) -> bool:
        """Take `amount`; False where it is more than there is, and then nothing is taken."""
        taken = self._taken.get(owner, 0) + amount
        if taken > self._each or self._taken_in_all + amount > self._in_all:
            return False
        self._taken[owner] = taken
        self._taken_in_all += amount
        return True

    def give(self, owner: Hashable, amount: int = 1) -> None:
        """Give back what was taken. Raises ValueError where it is more than that."""
        left = self._taken.get(owner, 0) - amount
        if left < 0:
            raise ValueError(f"{owner!r} gives back {-left} more than it has taken")
        self._taken_in_all -= amount
        if left:
            self._taken[owner] = left
        else:
            self._taken.pop(owner, None)

    def taken(self, owner: Hashable) -> int:
        """Return what this owner has taken."""
        return self._taken.get(owner, 0)

    @property
    def taken_in_all(self) -> int:
        """Return what all owners have taken."""
        return self._taken_in_all

    @contextlib.contextmanager
    def account(self, owner: Hashable) -> Iterator[Account]:
        """Take for one owner by and by; all is given back at the end."""
        account = Account(self, owner)
        try:
            yield account
        finally:
            account.close()


class Account:
    """What one session has taken of a budget: given back as a whole."""

    __slots__ = ("_budget", "_owner", "taken")

    def __init__(self, budget: Budget, owner: Hashable) -> None:
        self._budget = budget
        self._owner = owner
        self.taken = 0

    def take(self, amount: int) -> bool:
        """Take more; False where the budget has not so much left."""
        if not self._budget.take(self._owner, amount):
            return False
        self.taken += amount
        return True

    def close(self) -> None:
        """Give all of it back."""
        self._budget.give(self._owner, self.taken)
        self.taken = 0
