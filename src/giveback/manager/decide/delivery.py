"""Count what VMs returned of what they were asked for, and derive how far claims are believed. Pure.

A VM claims how much it could return. The claim is believed up to the amount that this VM returned before
(`GuestView.proven_bytes`). The rest is believed in part: the part that all VMs together delivered
lately. So a VM under a new name starts with the record of the others, and a false claim displaces no
more than an earlier true one. Asks at urgency 1 and asks at 2 or 3 are counted apart: a busy guest
returns nothing at 1, which says nothing about guests at 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from giveback_kernel.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.model import GuestView

GRACE_S = {1: 20.0, 2: 8.0, 3: 5.0}
"""Seconds to wait for an ask, by urgency: the agent's window of idleness, its pass, the kernel's reports.

A host that is short does not wait that long. After the grace of the next urgency it repeats the ask at
that urgency (`allocation.raised`)."""
_HALF_LIFE_S = 300.0
_BELIEVED_BYTES = 256 * MIB
"""Every tally starts with this much asked for and returned, so that one small miss weighs little."""
_LATE_BELOW = 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """An ask of one guest: when, at which urgency, for how many bytes, and its resident bytes then."""

    at_s: float
    urgency: int
    goal_bytes: int
    resident_bytes: int

    def waited_for(self, now_s: float) -> bool:
        """Return whether its grace is not over, so that bytes may still come."""
        return 0 <= now_s - self.at_s < GRACE_S[self.urgency]

    def has_left(self, again: Asked) -> bool:
        """Return whether a later ask wants no more than what of this one may still come."""
        came = max(0, self.resident_bytes - again.resident_bytes)
        return self.waited_for(again.at_s) and again.goal_bytes <= self.goal_bytes - came

    def came_bytes(self, guest: GuestView) -> int:
        """Return how many bytes the guest has returned since it was asked; 0 if it grew."""
        return max(0, self.resident_bytes - guest.resident_bytes)

    def is_answered(self, guest: GuestView) -> bool:
        """Return whether at least nine tenths of the goal have come."""
        return self.resident_bytes - guest.resident_bytes >= self.goal_bytes * 9 // 10


@dataclass(frozen=True, slots=True)
class Belief:
    """The believed part (0 to 1) of claims beyond what their VMs have proven, by urgency of the ask."""

    at_one: float = 1.0
    at_more: float = 1.0

    def part(self, urgency: int) -> float:
        """Return the part for an ask at this urgency."""
        return self.at_one if urgency <= 1 else self.at_more

    def bytes_of(self, guest: GuestView, goal_bytes: int, urgency: int) -> int:
        """Return how many bytes of this goal are expected from this guest."""
        proven = min(goal_bytes, guest.proven_bytes)
        return proven + int((goal_bytes - proven) * self.part(urgency))


@dataclass(frozen=True, slots=True)
class Tally:
    """Bytes asked for and bytes returned, of closed asks. Old ones fade with a half-life of 300 s."""

    asked_bytes: float = 0.0
    came_bytes: float = 0.0
    at_s: float = 0.0

    def plus(self, asked_bytes: float, came_bytes: float, now_s: float) -> Tally:
        """Return the tally aged to now, with these bytes added."""
        kept = 0.5 ** (max(0.0, now_s - self.at_s) / _HALF_LIFE_S)
        asked_bytes += self.asked_bytes * kept
        return Tally(asked_bytes, self.came_bytes * kept + came_bytes, now_s)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The tallies of all closed asks, and `open_asks`, which are not in a tally yet."""

    at_one: Tally = Tally()
    at_more: Tally = Tally()
    open_asks: Mapping[str, Asked] = field(default_factory=dict)

    def plus(self, ask: Asked, asked_bytes: float, came_bytes: float, now_s: float) -> Deliveries:
        """Return the deliveries with a closed ask added: the bytes that were due, and that came."""
        if ask.urgency <= 1:
            return replace(self, at_one=self.at_one.plus(asked_bytes, came_bytes, now_s))
        return replace(self, at_more=self.at_more.plus(asked_bytes, came_bytes, now_s))


def left_of(ask: Asked | None, guest: GuestView, now_s: float) -> int:
    """Return the bytes of one ask that may still come; 0 if the guest is short of memory itself."""
    if ask is None or guest.pressed or ask.is_answered(guest) or not ask.waited_for(now_s):
        return 0
    return max(0, ask.goal_bytes - ask.came_bytes(guest))


def pace_of(ask: Asked, guest: GuestView, urgency: int, now_s: float) -> float:
    """Return the part (0 to 1) that came of what should have come by now.

    `urgency` is the host's. It may shorten the time that the guest has: a host at 3 cannot wait as long as
    an ask at 1 may take. Nothing is due in the first half of the time. Then half of the bytes are due
    that would have come at an even pace.
    """
    grace_s = min(GRACE_S[ask.urgency], GRACE_S[min(3, max(1, urgency))])
    waited_s = now_s - ask.at_s
    due_bytes = ask.goal_bytes * min(1.0, waited_s / grace_s) / 2
    if waited_s < grace_s / 2 or due_bytes <= 0:
        return 1.0
    return min(1.0, ask.came_bytes(guest) / due_bytes)


def is_late(ask: Asked, guest: GuestView, urgency: int, now_s: float) -> bool:
    """Return whether too few bytes of this ask have come to wait for the rest."""
    return guest.pressed or pace_of(ask, guest, urgency, now_s) < _LATE_BELOW


def closed(
    deliveries: Deliveries,
    asked: Mapping[str, Asked],
    guests: Mapping[str, GuestView],
    now_s: float,
) -> Deliveries:
    """Return the deliveries with every finished ask in its tally, and the others open.

    An ask is finished if its grace is over, it is answered, or a new ask replaced it. `asked` has each
    guest's last ask. A VM that has gone counts as having returned nothing: it may come back under
    another name.
    """
    still_open: dict[str, Asked] = {}
    for key, ask in sorted(deliveries.open_asks.items()):
        guest = guests.get(key)
        waited = max(0.0, now_s - ask.at_s) / GRACE_S[ask.urgency]
        if guest is None:
            deliveries = deliveries.plus(ask, ask.goal_bytes, 0, now_s)
        elif waited >= 1 or ask.is_answered(guest) or asked.get(key) != ask:
            due_bytes = ask.goal_bytes * min(1.0, waited)
            came = min(ask.goal_bytes, ask.came_bytes(guest))
            deliveries = deliveries.plus(ask, max(due_bytes, came), came, now_s)
        else:
            still_open[key] = ask
    return replace(deliveries, open_asks=still_open)


def belief(
    deliveries: Deliveries, guests: Mapping[str, GuestView], urgency: int, now_s: float
) -> Belief:
    """Return how far claims are believed now. The missing bytes of a late ask count as not returned."""
    for key, ask in deliveries.open_asks.items():
        if key in guests and is_late(ask, guests[key], urgency, now_s):
            came_bytes = min(ask.goal_bytes, ask.came_bytes(guests[key]))
            deliveries = deliveries.plus(ask, ask.goal_bytes, came_bytes, now_s)
    return Belief(_part(deliveries.at_one), _part(deliveries.at_more))


def _part(tally: Tally) -> float:
    part = (_BELIEVED_BYTES + tally.came_bytes) / (_BELIEVED_BYTES + tally.asked_bytes)
    return min(1.0, part)
