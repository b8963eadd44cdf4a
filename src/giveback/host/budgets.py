"""Budgets shared by many: a limit in all, and one for each owner, so that no owner exhausts it. Pure.

An owner is a uid, or any other value that identifies all that belongs to one stranger.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

_ONE_USERS_BELOW = 1 << 16
_RANGE_BITS = 16


def owner_of(uid: int | None) -> Hashable:
    """Return the owner of a uid: uids above 65535 are grouped in ranges of 65536, each of one owner.

    A user with a range of subordinate uids (subuid(5)) can run processes as each of them.
    """
    if uid is None or uid < _ONE_USERS_BELOW:
        return uid
    return ("range", uid >> _RANGE_BITS)


class Budget:
    """A limited amount, `in_all` for all owners together and `each` for one owner."""

    __slots__ = ("_each", "_in_all", "_taken", "_taken_in_all")

    def __init__(self, in_all: int, each: int) -> None:
        self._in_all = in_all
        self._each = each
        self._taken: dict[Hashable, int] = {}
        self._taken_in_all = 0

    def take(self, owner: Hashable, amount: int = 1) -> bool:
        """Take `amount` and return True; take nothing and return False if less is left."""
        taken = self._taken.get(owner, 0) + amount
        if taken > self._each or self._taken_in_all + amount > self._in_all:
            return False
        self._taken[owner] = taken
        self._taken_in_all += amount
        return True

    def give(self, owner: Hashable, amount: int = 1) -> None:
        """Give back `amount`. Raises ValueError if the owner has taken less."""
        left = self._taken.get(owner, 0) - amount
        if left < 0:
            raise ValueError(f"{owner!r} gives back {-left} more than it has taken")
        self._taken_in_all -= amount
        if left:
            self._taken[owner] = left
        else:
            self._taken.pop(owner, None)

    def taken(self, owner: Hashable) -> int:
        """Return the amount that this owner has taken."""
        return self._taken.get(owner, 0)

    @property
    def taken_in_all(self) -> int:
        """The amount that all owners together have taken."""
        return self._taken_in_all

    @contextlib.contextmanager
    def account(self, owner: Hashable) -> Iterator[Account]:
        """Yield an account of one owner; all that it takes is given back at the end of the context."""
        account = Account(self, owner)
        try:
            yield account
        finally:
            account.close()


class Account:
    """The amount that one session has taken of a budget; it is given back as a whole."""

    __slots__ = ("_budget", "_owner", "taken")

    def __init__(self, budget: Budget, owner: Hashable) -> None:
        self._budget = budget
        self._owner = owner
        self.taken = 0

    def take(self, amount: int) -> bool:
        """Take more and return True; return False if less is left in the budget."""
        if not self._budget.take(self._owner, amount):
            return False
        self.taken += amount
        return True

    def close(self) -> None:
        """Give back all that was taken."""
        self._budget.give(self._owner, self.taken)
        self.taken = 0
