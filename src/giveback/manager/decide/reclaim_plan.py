"""How `giveback reclaim` asks the guests: how urgently, for how much, on numbers how old. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.manager.decide import promises
from giveback.manager.decide.allocation import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.decide.allocation import Asked
    from giveback.manager.model import Ask, GuestView

WITHIN_LIMIT_S = 3600.0
STEP_S = 0.5
"""How often what came is compared with what is missing."""
_FRESH_S = 5.0
_ANSWERS_S = 3.0
_CHEAP_FOR = 1 / 3
"""For this part of the time only memory that costs the guests little is taken."""


def is_report_old(reported_at_s: float | None, now_s: float) -> bool:
    """Return whether a guest is to report again before it is asked for memory."""
    return reported_at_s is None or now_s - reported_at_s > _FRESH_S


def answers_until_s(now_s: float, within_s: float) -> float:
    """Return until when the guests' reports are waited for: at most a fifth of the time."""
    return now_s + min(_ANSWERS_S, within_s / 5)


def urgency_at(now_s: float, started_s: float, deadline_s: float) -> int:
    """Return 2 for the first third of the time, then 3."""
    return 3 if now_s - started_s > (deadline_s - started_s) * _CHEAP_FOR else 2


def urgency_until_s(deadline_s: float) -> float:
    """Return when an urgency of `reclaim` ends by itself, should it not be ended in order."""
    return deadline_s + promises.GRACE_S / 3


def asks_of_reclaim(
    missing_bytes: int,
    urgency: int,
    guests: Mapping[str, GuestView],
    asked: Mapping[str, Asked],
    now_s: float,
) -> tuple[Ask, ...]:
    """Return whom to ask for what is missing and not yet on its way. `guests` are `sane`.

    Where memory that costs little does not suffice, all is asked for at once: no time is lost.
    """
    expected = sum(
        max(0, ask.goal_bytes - max(0, ask.resident_bytes - guests[key].resident_bytes))
        for key, ask in asked.items()
        if key in guests and ask.waited_for(now_s)
    )
    rest = max(0, missing_bytes - expected)
    asks = plan(rest, urgency, guests, asked, now_s)
    offered = sum(ask.goal_bytes for ask in asks) + expected
    if urgency < 3 and offered < missing_bytes:
        return plan(rest, 3, guests, asked, now_s)
    return asks
