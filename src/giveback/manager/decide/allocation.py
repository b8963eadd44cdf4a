"""Distribute the host's deficit over the guests: which guest is asked for how many bytes. Pure.

Trapped memory of all guests goes first, then cold cache, then warm cache. Within a kind, the guest with
the most bytes per weight goes first. Few guests are asked at a time. A guest is not asked again before
it has answered or its time is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from giveback.manager.decide.delivery import GRACE_S, Asked, Belief, is_late, left_of, pace_of
from giveback.manager.model import Ask
from giveback_kernel.units import MIB, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from giveback.manager.model import GuestView

LEAST_GOAL_BYTES = 16 * MIB
"""The agent's own least amount: fewer bytes are not worth a pass."""
LEAST_RELIABILITY = 1 / 8
"""A guest that never delivers is still asked now and then: the cause may have gone."""
RAISED_FROM_RELIABILITY = 0.5
"""A guest below this is not asked again more urgently, unless the host's urgency is 3."""
AMOUNT_LIMIT_BYTES = 1 << 57
_ALL_BELIEVED = Belief()


def sane(guests: Sequence[GuestView]) -> dict[str, GuestView]:
    """Return the guests by key, with every number clamped to values that a VM can have."""
    views: dict[str, GuestView] = {}
    chosen: dict[str, GuestView] = {}
    for guest in guests:
        # Keys are unique. If two were equal, the result would still not depend on the list's order.
        other = chosen.get(guest.key)
        chosen[guest.key] = guest if other is None else min(guest, other, key=repr)
    for guest in chosen.values():
        resident = _amount(guest.resident_bytes, AMOUNT_LIMIT_BYTES)
        trapped = _amount(guest.trapped_bytes, resident)
        cold = _amount(guest.cold_bytes, resident - trapped)
        views[guest.key] = replace(
            guest,
            resident_bytes=resident,
            trapped_bytes=trapped,
            cold_bytes=cold,
            warm_bytes=_amount(guest.warm_bytes, resident - trapped - cold),
            floor_bytes=_amount(guest.floor_bytes, AMOUNT_LIMIT_BYTES),
            weight=_within(guest.weight, 0.001, 1000.0),
            reliability=_within(guest.reliability, LEAST_RELIABILITY, 1.0),
            proven_bytes=_amount(guest.proven_bytes, AMOUNT_LIMIT_BYTES),
        )
    return views


def _amount(value: int, limit: int) -> int:
    return min(max(0, value), limit)


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high) if math.isfinite(value) else low


def still_expected(
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
    urgency: int = 1,
    belief: Belief = _ALL_BELIEVED,
) -> int:
    """Return the bytes that were asked for and are still expected from these guests.

    Each amount is reduced by how far its guest is believed, and by how late it is.
    """
    expected = 0
    for key, ask in asked.items():
        left = left_of(ask, guests[key], now_s) if key in guests else 0
        if left:
            believed = belief.bytes_of(guests[key], left, ask.urgency)
            expected += int(believed * pace_of(ask, guests[key], urgency, now_s))
    return expected


def raised(
    deficit_bytes: int,
    urgency: int,
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
) -> tuple[Ask, ...]:
    """Return the asks to repeat at the next urgency, because too few bytes came. At most `deficit_bytes`.

    An ask is late if less than half has come of what should have come by now. An agent acts at urgency
    1 in an idle guest, at 2 in a guest that is not busy, at 3 in any guest.
    """
    asks = []
    left_bytes = deficit_bytes
    for key, ask in sorted(asked.items()):
        guest = guests.get(key)
        if guest is None or not guest.fresh or ask.urgency >= urgency:
            continue
        if guest.reliability < RAISED_FROM_RELIABILITY and urgency < 3:
            continue
        waited_s, left = now_s - ask.at_s, left_of(ask, guest, now_s)
        due_bytes = ask.goal_bytes * waited_s / GRACE_S[ask.urgency]
        is_late = waited_s >= GRACE_S[ask.urgency + 1] and ask.goal_bytes - left < due_bytes / 2
        gives = guest.trapped_bytes + guest.cold_bytes + (guest.warm_bytes if urgency >= 3 else 0)
        goal = min(left, left_bytes, gives, guest.resident_bytes - guest.floor_bytes)
        if is_late and goal >= LEAST_GOAL_BYTES:
            asks.append(Ask(key, ask.urgency + 1, goal, f"too little came at {ask.urgency}"))
            left_bytes -= goal
    return tuple(asks)


def plan(
    deficit_bytes: int,
    urgency: int,
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
    warm_deficit_bytes: int | None = None,
    belief: Belief = _ALL_BELIEVED,
) -> tuple[Ask, ...]:
    """Return which guests to ask now, for `deficit_bytes` in all.

    `guests` come from `sane`; `asked` holds each guest's last ask. A goal is what the guest can give
    above its floor, times its reliability. The believed part of the goals adds up to at most the
    deficit. So more guests are asked after misses, and several at once while claims are unproven. Warm
    cache is asked for at urgency 3 only, and only for the part of `warm_deficit_bytes` (None: the
    deficit) that cheaper memory does not cover.
    """
    parts = {
        key: part
        for key, guest in sorted(guests.items())
        if (part := _offer(guest, asked.get(key), urgency, now_s)) is not None
    }
    within = deficit_bytes if warm_deficit_bytes is None else warm_deficit_bytes
    goals = _distribute(deficit_bytes, min(within, deficit_bytes), parts, urgency, belief)
    waiting = sum(
        key in guests
        and left_of(ask, guests[key], now_s) > 0
        and not is_late(ask, guests[key], urgency, now_s)
        for key, ask in asked.items()
    )
    slots = max(0, int(_at_once(urgency, len(guests)) / _believed_now(belief, urgency)) - waiting)
    ranked = sorted(goals.items(), key=lambda item: (-_rank(item[1], guests[item[0]]), item[0]))
    asks = [_ask(parts[key], goal) for key, goal in ranked[:slots]]
    return tuple(sorted(asks, key=lambda ask: (-ask.goal_bytes, ask.key)))


@dataclass(frozen=True, slots=True)
class _Parts:
    """The bytes that a guest can give now, or the part of them that is wanted, by what they cost."""

    guest: GuestView
    trapped_bytes: int = 0
    cold_bytes: int = 0
    warm_bytes: int = 0
    least_urgency: int = 1

    @property
    def cheap_bytes(self) -> int:
        return self.trapped_bytes + self.cold_bytes

    @property
    def sum_bytes(self) -> int:
        return self.cheap_bytes + self.warm_bytes


_STAGES = ("trapped_bytes", "cold_bytes", "warm_bytes")


def _offer(guest: GuestView, ask: Asked | None, urgency: int, now_s: float) -> _Parts | None:
    """Return what this guest may be asked for at this urgency; None if it is left alone."""
    if guest.pressed or not guest.fresh:
        return None
    trapped, cold = guest.trapped_bytes, guest.cold_bytes
    warm = guest.warm_bytes if urgency >= 3 else 0
    least_urgency = 1
    if not _may_be_asked_again(guest, ask, now_s):
        if urgency < 3 or ask is None or ask.urgency > 1:
            return None
        # The host's urgency has risen to 3 since. The earlier ask stays open, so only warm cache is new.
        warm -= max(0, left_of(ask, guest, now_s) - trapped - cold)
        trapped = cold = 0
        warm = max(0, warm)
        least_urgency = 2
    above_floor = max(0, guest.resident_bytes - guest.floor_bytes)
    trapped = min(trapped, above_floor)
    cold = min(cold, above_floor - trapped)
    warm = min(warm, above_floor - trapped - cold)
    if trapped + cold + warm < LEAST_GOAL_BYTES:
        return None
    part = guest.reliability
    return _Parts(guest, int(trapped * part), int(cold * part), int(warm * part), least_urgency)


def _may_be_asked_again(guest: GuestView, ask: Asked | None, now_s: float) -> bool:
    """Return whether the guest has answered its last ask, or has had enough time to.

    The less it delivered before, the longer the time.
    """
    if ask is not None and not ask.is_answered(guest):
        waited_s = now_s - ask.at_s
        if 0 <= waited_s < GRACE_S[ask.urgency] / guest.reliability:
            return False
    elsewhere_s = guest.asked_at_s
    if elsewhere_s is None or (ask is not None and elsewhere_s <= ask.at_s):
        return True
    return not 0 <= now_s - elsewhere_s < GRACE_S[1]


def _distribute(
    deficit_bytes: int,
    warm_deficit_bytes: int,
    parts: Mapping[str, _Parts],
    urgency: int,
    belief: Belief,
) -> dict[str, _Parts]:
    """Return each guest's goal: cheapest memory first, and of each kind the largest amounts first.

    Only the believed part of an amount counts against the deficit.
    """
    goals: dict[str, _Parts] = {}
    left = deficit_bytes
    for stage in _STAGES[: 3 if urgency >= 3 else 2]:
        asked_at = 1
        if stage == "warm_bytes":
            left -= deficit_bytes - warm_deficit_bytes
            asked_at = urgency
        believed = {
            key: belief.bytes_of(part.guest, getattr(part, stage), asked_at)
            for key, part in parts.items()
        }
        ranked = sorted(
            parts.items(),
            key=lambda item: (-believed[item[0]] / item[1].guest.weight, item[0]),
        )
        for key, offered in ranked:
            # The last few MiB are not worth a pass in one more guest.
            if left <= 0 or (left < LEAST_GOAL_BYTES and goals and key not in goals):
                break
            amount = getattr(offered, stage)
            if believed[key] > left:
                amount = min(amount, amount * left // believed[key])
            if amount:
                had = goals.get(key, _Parts(offered.guest))
                goals[key] = replace(had, **{stage: amount})
                left -= min(left, believed[key])
    return goals


def _believed_now(belief: Belief, urgency: int) -> float:
    return min(belief.at_one, belief.at_more) if urgency >= 3 else belief.at_one


def _at_once(urgency: int, guests: int) -> int:
    """Return how many guests may run a pass at the same time: each costs the host CPU and disk."""
    if urgency >= 3:
        return 128
    return max(4, min(32, guests // 2)) if urgency == 2 else max(2, min(8, guests // 4))


def _rank(goal: _Parts, guest: GuestView) -> float:
    """Return the sort key: the most bytes at the least cost go first if not all can be asked at once."""
    return (goal.cheap_bytes + goal.warm_bytes / 4) / guest.weight


def _ask(offered: _Parts, goal: _Parts) -> Ask:
    """Return the ask for a goal, at the least urgency at which the agent takes that many bytes."""
    guest = goal.guest
    urgency = offered.least_urgency
    if goal.warm_bytes:
        cache = offered.cold_bytes + offered.warm_bytes
        at_two = max(offered.cold_bytes, cache // 2)
        urgency = max(urgency, 2 if goal.cold_bytes + goal.warm_bytes <= at_two else 3)
    words = [
        f"{size(amount)} {name}"
        for name, amount in (
            ("trapped", goal.trapped_bytes),
            ("cold", goal.cold_bytes),
            ("warm", goal.warm_bytes),
        )
        if amount
    ]
    return Ask(guest.key, urgency, goal.sum_bytes, ", ".join(words))
