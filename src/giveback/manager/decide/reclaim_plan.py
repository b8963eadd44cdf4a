"""Plan `giveback reclaim`: which guests are asked, at which urgency, for how many bytes. Pure.

    first third of the time    trapped memory, then cold cache, at urgency 1; warm cache at once if
                               those are too little
    second third               warm cache as well; guests that returned too little are asked again
                               at urgency 2
    last third                 the same at urgency 3, which busy guests obey too

An agent takes cold cache at urgency 1 if the guest is idle, half of the warm cache at 2 if it is not
busy, all of it at 3 in any guest. Cache that it has learned to keep is kept at urgency 1 only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.manager.decide import promises, schedule
from giveback.manager.decide.allocation import LEAST_GOAL_BYTES, plan
from giveback.manager.model import Ask
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.decide.delivery import Asked
    from giveback.manager.model import GuestView

WITHIN_LIMIT_S = 3600.0
STEP_S = 0.5
"""Seconds between two comparisons of the bytes that came with the goal."""
_FRESH_S = 5.0
_ANSWERS_S = 3.0
_STAGES = 3
_CHEAP, _ALL = 2, 3
"""The host's urgencies at which `allocation.plan` offers cheap memory only, and warm cache as well."""
_MUTE_DIVISOR = 8
_LATE_BELOW = 0.9
"""A guest that returned less than this part of its goal is asked again, more urgently."""


def is_report_old(reported_at_s: float | None, now_s: float) -> bool:
    """Return whether a guest is to report again before it is asked for memory."""
    return reported_at_s is None or now_s - reported_at_s > _FRESH_S


def port_until_s(now_s: float, within_s: float) -> float:
    """Return the time until which a port is waited for that another client has: a third of the time at most.

    The daemon leaves it for `schedule.PORT_LEFT_S`; then its agent is to report.
    """
    return now_s + min(2 * schedule.PORT_LEFT_S + _ANSWERS_S, within_s / 3)


def answers_until_s(now_s: float, within_s: float) -> float:
    """Return the time until which the guests' reports are awaited: 3 s, or a fifth of the whole if less."""
    return now_s + min(_ANSWERS_S, within_s / 5)


def stage_at(now_s: float, started_s: float, deadline_s: float) -> int:
    """Return 1, 2 or 3 for the first, second and last third of the time."""
    whole_s = deadline_s - started_s
    if whole_s <= 0:
        return _STAGES
    return min(_STAGES, max(1, 1 + int((now_s - started_s) * _STAGES / whole_s)))


def urgency_until_s(deadline_s: float) -> float:
    """Return when an urgency of `reclaim` expires by itself, in case `reclaim` does not end it."""
    return deadline_s + promises.GRACE_S / 3


def can_give_bytes(guest: GuestView) -> int:
    """Return the most that this guest can be asked for, warm cache included, above its floor.

    0 if it cannot be asked at all, or has too little to be worth a pass.
    """
    if guest.pressed or not guest.fresh or not guest.may_press:
        return 0
    gives = guest.trapped_bytes + guest.cold_bytes + guest.warm_bytes
    gives = min(gives, max(0, guest.resident_bytes - guest.floor_bytes))
    return gives if gives >= LEAST_GOAL_BYTES else 0


def most_bytes(guests: Mapping[str, GuestView]) -> int:
    """Return the most that can come from all of them. `guests` are `sane`."""
    return sum(can_give_bytes(guest) for guest in guests.values())


def asks_of_reclaim(
    missing_bytes: int,
    stage: int,
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
) -> tuple[Ask, ...]:
    """Return the asks for what is missing and not yet expected. `guests` come from `sane`.

    If memory that costs little is not enough, warm cache is asked for at once, to lose no time. A guest
    that was asked and returned nothing is asked more urgently only for bytes that no other guest has: its
    claim may be false.
    """
    guests = {key: guest for key, guest in guests.items() if can_give_bytes(guest)}
    repeats = _more_urgent(missing_bytes, stage, guests, asked, now_s)
    repeated = {ask.key for ask in repeats}
    again = [ask for ask in repeats if not _is_mute(asked[ask.key], guests[ask.key])]
    expected = sum(ask.goal_bytes for ask in again)
    waited_for = {key: ask for key, ask in asked.items() if key in guests and key not in repeated}
    expected += sum(_left_of(ask, guests[key], now_s) for key, ask in waited_for.items())
    rest = max(0, missing_bytes - expected)
    others = {key: guest for key, guest in guests.items() if key not in repeated}
    asks = plan(rest, _CHEAP if stage == 1 else _ALL, others, asked, now_s)
    if stage == 1 and sum(ask.goal_bytes for ask in asks) < rest:
        asks = plan(rest, _ALL, others, asked, now_s)
    left_bytes = rest - sum(ask.goal_bytes for ask in asks)
    mute = []
    for ask in repeats:
        if ask not in again and left_bytes > 0:
            mute.append(replace(ask, goal_bytes=min(ask.goal_bytes, left_bytes)))
            left_bytes -= mute[-1].goal_bytes
    return (*again, *asks, *mute)


def _is_mute(ask: Asked, guest: GuestView) -> bool:
    """Return whether less than an eighth has come of what this guest was asked for."""
    return ask.came_bytes(guest) * _MUTE_DIVISOR < ask.goal_bytes


def _more_urgent(
    missing_bytes: int,
    stage: int,
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
) -> tuple[Ask, ...]:
    """Return the asks to repeat at the urgency of this stage, because too few bytes came at a lower one.

    A guest that was asked less than STEP_S ago is left out: a pass takes some seconds.
    """
    asks = []
    left_bytes = missing_bytes
    ranked = sorted(
        asked.items(),
        key=lambda item: (item[0] in guests and _is_mute(item[1], guests[item[0]]), item[0]),
    )
    for key, ask in ranked:
        guest = guests.get(key)
        if guest is None or ask.urgency >= stage or now_s - ask.at_s < STEP_S:
            continue
        came = max(0, ask.resident_bytes - guest.resident_bytes)
        missing = ask.goal_bytes - came
        if came >= ask.goal_bytes * _LATE_BELOW and missing < LEAST_GOAL_BYTES:
            continue
        goal = min(ask.goal_bytes - came, left_bytes, can_give_bytes(guest))
        if goal > 0:
            reason = f"{size(came)} of {size(ask.goal_bytes)} came at urgency {ask.urgency}"
            asks.append(Ask(key, stage, goal, reason))
            left_bytes -= goal
    return tuple(asks)


def _left_of(ask: Asked, guest: GuestView, now_s: float) -> int:
    """Return the bytes of an ask that have not come; 0 once its grace is over."""
    if not ask.waited_for(now_s):
        return 0
    return max(0, ask.goal_bytes - max(0, ask.resident_bytes - guest.resident_bytes))


def cost_of(ask: Ask) -> str:
    """Return in words what the ask takes, and what that costs the guest."""
    if ask.urgency == 1:
        return f"{ask.reason}: costs little"
    busy = ", and the pass runs even if the guest is busy" if ask.urgency >= _STAGES else ""
    return f"{ask.reason}: warm cache is read from disk again when it is used{busy}"
