"""What VMs returned of what they were asked for, and how far the next ones are believed. Pure.

A VM says how much it could return. It is believed for as much as it has returned before
(`GuestView.proven_bytes`); beyond that as much as all VMs together have deserved lately. So a new
name starts with what the other VMs have earned, and a lie displaces no more than an earlier truth.
What was asked for at urgency 1 and at 2 or 3 is counted apart: a guest that is busy returns nothing
at 1, and this says nothing of the others at 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from giveback_kernel.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.model import GuestView

GRACE_S = {1: 20.0, 2: 8.0, 3: 5.0}
"""How long an ask is waited for: the agent's window of idleness, its pass, the kernel's reports.

After the grace of the next urgency, a host that is short repeats it with that (`allocation.raised`)."""
_HALF_LIFE_S = 300.0
_BELIEVED_BYTES = 256 * MIB
"""So much counts as asked for and returned before anything was: one small miss is no judgement."""
_LATE_BELOW = 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """What a guest was asked for, and what it held then."""

    at_s: float
    urgency: int
    goal_bytes: int
    resident_bytes: int

    def waited_for(self, now_s: float) -> bool:
        """Return whether the time in which it may still come has not passed."""
        return 0 <= now_s - self.at_s < GRACE_S[self.urgency]

    def came_bytes(self, guest: GuestView) -> int:
        """Return by how much the guest holds less than when it was asked."""
        return max(0, self.resident_bytes - guest.resident_bytes)

    def is_answered(self, guest: GuestView) -> bool:
        """Return whether as good as all of it has come."""
        return self.resident_bytes - guest.resident_bytes >= self.goal_bytes * 9 // 10


@dataclass(frozen=True, slots=True)
class Belief:
    """The part of a claim that is believed beyond what its VM has proven, by the urgency of the ask."""

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
    """Bytes that were asked for and that came, of asks whose time is over; older ones count less."""

    asked_bytes: float = 0.0
    came_bytes: float = 0.0
    at_s: float = 0.0

    def plus(self, asked_bytes: float, came_bytes: float, now_s: float) -> Tally:
        """Return the tally with these bytes added, and what was before aged to now."""
        kept = 0.5 ** (max(0.0, now_s - self.at_s) / _HALF_LIFE_S)
        asked_bytes += self.asked_bytes * kept
        return Tally(asked_bytes, self.came_bytes * kept + came_bytes, now_s)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What came of all asks. `open_asks` are those that are not in a tally yet."""

    at_one: Tally = Tally()
    at_more: Tally = Tally()
    open_asks: Mapping[str, Asked] = field(default_factory=dict)

    def plus(self, ask: Asked, asked_bytes: float, came_bytes: float, now_s: float) -> Deliveries:
        """Return these with an ask of which so much was due and came."""
        if ask.urgency <= 1:
            return replace(self, at_one=self.at_one.plus(asked_bytes, came_bytes, now_s))
        return replace(self, at_more=self.at_more.plus(asked_bytes, came_bytes, now_s))


def left_of(ask: Asked | None, guest: GuestView, now_s: float) -> int:
    """Return what of one ask may still come. A guest that has run short itself will not deliver."""
    if ask is None or guest.pressed or ask.is_answered(guest) or not ask.waited_for(now_s):
        return 0
    return max(0, ask.goal_bytes - ask.came_bytes(guest))


def pace_of(ask: Asked, guest: GuestView, urgency: int, now_s: float) -> float:
    """Return how far what came is what should have come by now: 1 where it is, 0 where nothing came.

    `urgency` is the host's: at its worst it cannot wait as long as a guest that was asked at 1 may.
    Nothing is due in the first half of the time, and then half of what would come at an even pace.
    """
    grace_s = min(GRACE_S[ask.urgency], GRACE_S[min(3, max(1, urgency))])
    waited_s = now_s - ask.at_s
    due_bytes = ask.goal_bytes * min(1.0, waited_s / grace_s) / 2
    if waited_s < grace_s / 2 or due_bytes <= 0:
        return 1.0
    return min(1.0, ask.came_bytes(guest) / due_bytes)


def is_late(ask: Asked, guest: GuestView, urgency: int, now_s: float) -> bool:
    """Return whether too little of this ask has come to wait for the rest of it."""
    return guest.pressed or pace_of(ask, guest, urgency, now_s) < _LATE_BELOW


def closed(
    deliveries: Deliveries,
    asked: Mapping[str, Asked],
    guests: Mapping[str, GuestView],
    now_s: float,
) -> Deliveries:
    """Return the tallies with every ask whose time is over, and the others as open.

    `asked` is what each guest was asked for last. A guest that has gone counts as one that returned
    nothing: it may come back under another name.
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
    """Return how far claims are believed now; what is late already counts as what will not come."""
    for key, ask in deliveries.open_asks.items():
        if key in guests and is_late(ask, guests[key], urgency, now_s):
            came_bytes = min(ask.goal_bytes, ask.came_bytes(guests[key]))
            deliveries = deliveries.plus(ask, ask.goal_bytes, came_bytes, now_s)
    return Belief(_part(deliveries.at_one), _part(deliveries.at_more))


def _part(tally: Tally) -> float:
    part = (_BELIEVED_BYTES + tally.came_bytes) / (_BELIEVED_BYTES + tally.asked_bytes)
    return min(1.0, part)
