"""How `giveback reclaim` asks the guests: whom, how urgently, for how much. Pure.

    first third of the time    memory that costs little: trapped, then cold cache, at urgency 1;
                               warm cache at once where that does not suffice
    second third               warm cache, too; who returned too little is asked again at urgency 2
    last third                 the same at urgency 3: also a guest that is busy

An agent takes cold cache at urgency 1 in an idle guest, half of the warm cache at 2 in one that is not
busy, all of it at 3 in any. What it has learned to keep it keeps at 1 only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.manager.decide import promises
from giveback.manager.decide.allocation import LEAST_GOAL_BYTES, plan
from giveback.manager.model import Ask
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.decide.delivery import Asked
    from giveback.manager.model import GuestView

WITHIN_LIMIT_S = 3600.0
STEP_S = 0.5
"""How often what came is compared with what is missing."""
_FRESH_S = 5.0
_ANSWERS_S = 3.0
_STAGES = 3
_CHEAP, _ALL = 2, 3
"""The host's urgencies by which `allocation.plan` offers cheap memory only, or warm cache, too."""
_MUTE_DIVISOR = 8
_LATE_BELOW = 0.9
"""Who returned less than this part of what it was asked for is asked again, more urgently."""


def is_report_old(reported_at_s: float | None, now_s: float) -> bool:
    """Return whether a guest is to report again before it is asked for memory."""
    return reported_at_s is None or now_s - reported_at_s > _FRESH_S


def answers_until_s(now_s: float, within_s: float) -> float:
    """Return until when the guests' reports are waited for: at most a fifth of the time."""
    return now_s + min(_ANSWERS_S, within_s / 5)


def stage_at(now_s: float, started_s: float, deadline_s: float) -> int:
    """Return 1, 2 or 3 for the first, second and last third of the time."""
    whole_s = deadline_s - started_s
    if whole_s <= 0:
        return _STAGES
    return min(_STAGES, max(1, 1 + int((now_s - started_s) * _STAGES / whole_s)))


def urgency_until_s(deadline_s: float) -> float:
    """Return when an urgency of `reclaim` ends by itself, should it not be ended in order."""
    return deadline_s + promises.GRACE_S / 3


def can_give_bytes(guest: GuestView) -> int:
    """Return the most that this guest can be asked for: above its floor, the warm cache too.

    0 where it cannot be asked at all, or has less than is worth a pass.
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
    """Return whom to ask for what is missing and not yet on its way. `guests` are `sane`.

    Where memory that costs little does not suffice, all is asked for at once: no time is lost. Who was
    asked and has returned nothing is asked more urgently only for what no other guest has: it may have
    nothing, whatever it says.
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
    """Whether as good as nothing has come of what this guest was asked for."""
    return ask.came_bytes(guest) * _MUTE_DIVISOR < ask.goal_bytes


def _more_urgent(
    missing_bytes: int,
    stage: int,
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
) -> tuple[Ask, ...]:
    """Return the asks that are repeated at the urgency of this stage: too little came at less.

    A guest that was asked a moment ago has its time first: a pass takes some seconds.
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
    """Return what of an ask has not come yet, and may: it is waited for some seconds."""
    if not ask.waited_for(now_s):
        return 0
    return max(0, ask.goal_bytes - max(0, ask.resident_bytes - guest.resident_bytes))


def cost_of(ask: Ask) -> str:
    """Return what the ask takes and at what cost, in words."""
    if ask.urgency == 1:
        return f"{ask.reason}: costs little"
    busy = ", and a busy guest works meanwhile" if ask.urgency >= _STAGES else ""
    return f"{ask.reason}: warm cache is read from disk again when it is used{busy}"
