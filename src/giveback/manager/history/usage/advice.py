"""How much RAM would have sufficed for a VM, judged from what it needed in each hour. Pure.

The rule is meant to be too generous rather than too small: never below what was needed in any hour,
with headroom for a day like no other so far, and ahead of growth. benchmarks/advice.py compares it
with the rules of the Kubernetes Vertical Pod Autoscaler and "p95 + 15 %" (docs/usage.md).
"""

from __future__ import annotations

import enum
import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_kernel.units import GIB, MIB, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOUR_S, DAY_S = 3600, 86400
LEAST_HOURS = 24
AHEAD_DAYS = 14
"""How long growth must be borne until somebody decides again."""
HEADROOM = 0.10
RECORD_MOST = 0.25
"""The highest day may exceed the second highest by more than this without being a forecast."""
GROWTH_LEAST_DAYS = 5
GROWTH_TAU = 0.6
GROWTH_LEAST = 0.05
FULL = 0.95
"""Of RAM: a VM that needed that much may have wanted more."""
WEEK_DAYS, SURE_DAYS = 7, 14
COVERED_LEAST, COVERED_SURE = 0.7, 0.9


class Confidence(enum.StrEnum):
    """How far the record supports an advice."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Advice:
    """RAM that would have sufficed, in bytes; None where nothing can be said. The reason is one line."""

    ram_bytes: int | None
    confidence: Confidence
    reason: str


@dataclass(frozen=True, slots=True)
class Growth:
    """A steady rise of what is needed, by day."""

    bytes_per_day: float
    level_bytes: float
    """At the end of the record, by the line through it."""


def advise(needed_by_hour: Mapping[int, int], ram_bytes: int) -> Advice:
    """Return the advice for a VM of `ram_bytes` from the most that it needed in each recorded hour.

    `needed_by_hour` is by the hour's start in seconds; hours without a record are left out.
    """
    if len(needed_by_hour) < LEAST_HOURS:
        hours = len(needed_by_hour)
        return Advice(None, Confidence.NONE, f"{hours} of at least {LEAST_HOURS} hours recorded")
    most = max(needed_by_hour.values())
    days = _daily_most(needed_by_hour)
    confidence, seen = _confidence(needed_by_hour)
    growth = growth_of(days)
    if most >= ram_bytes * FULL:
        return Advice(
            ram_bytes, min_of(confidence, Confidence.LOW),
            f"it needed {size(most)}, nearly all of its RAM, and may need more; {seen}",
        )  # fmt: skip
    if growth is not None:
        return _for_growth(growth, most, ram_bytes, min_of(confidence, Confidence.MEDIUM), seen)
    wanted = _rounded(most + _headroom_bytes(days, most))
    reason = f"it never needed more than {size(most)}; {seen}"
    return Advice(min(wanted, ram_bytes), confidence, reason)


def _for_growth(
    growth: Growth, most: int, ram_bytes: int, confidence: Confidence, seen: str
) -> Advice:
    ahead = max(float(most), growth.level_bytes + growth.bytes_per_day * AHEAD_DAYS)
    rise = f"what it needs grows by {size(round(growth.bytes_per_day))} a day"
    wanted = _rounded(round(ahead * (1 + HEADROOM)))
    if wanted < ram_bytes:
        return Advice(wanted, confidence, f"{rise}: this is for {AHEAD_DAYS} days from now; {seen}")
    full_days = (ram_bytes - growth.level_bytes) / growth.bytes_per_day
    return Advice(
        ram_bytes, confidence,
        f"{rise} and fills its RAM in {max(0, round(full_days))} days; is it a leak? {seen}",
    )  # fmt: skip


def growth_of(days: Sequence[int]) -> Growth | None:
    """Return the rise of a series of daily values; None where there is no steady one.

    The slope is the median of all pairs' (Theil-Sen); steady means that most pairs rise (Kendall's
    tau), so that neither one high day nor a weekly rhythm counts.
    """
    if len(days) < GROWTH_LEAST_DAYS:
        return None
    pairs = list(itertools.combinations(enumerate(days), 2))
    slope = statistics.median((b - a) / (j - i) for (i, a), (j, b) in pairs)
    tau = sum((b > a) - (b < a) for (_, a), (_, b) in pairs) / len(pairs)
    if tau < GROWTH_TAU or slope * (len(days) - 1) < GROWTH_LEAST * max(days):
        return None
    start = statistics.median(value - slope * day for day, value in enumerate(days))
    return Growth(slope, start + slope * (len(days) - 1))


def _headroom_bytes(days: Sequence[int], most: int) -> int:
    """Return a tenth, or the excess of the highest day over the second: a new record may repeat it."""
    second = sorted(days)[-2] if len(days) > 1 else most
    return round(min(max(HEADROOM * most, most - second), RECORD_MOST * most))


def _daily_most(needed_by_hour: Mapping[int, int]) -> list[int]:
    """Return the most of each recorded day, oldest first; days begin with the record."""
    start_s = min(needed_by_hour)
    by_day: dict[int, int] = {}
    for at_s, needed in needed_by_hour.items():
        day = (at_s - start_s) // DAY_S
        by_day[day] = max(needed, by_day.get(day, 0))
    return [by_day[day] for day in sorted(by_day)]


def _confidence(needed_by_hour: Mapping[int, int]) -> tuple[Confidence, str]:
    """Return how far the record supports an advice, and what it is, in words."""
    span_hours = (max(needed_by_hour) - min(needed_by_hour)) // HOUR_S + 1
    covered = len(needed_by_hour) / span_hours
    days = span_hours / 24
    seen = f"{days:.0f} days recorded"
    if covered < COVERED_SURE:
        seen += f", {covered:.0%} of the hours"
    if days < WEEK_DAYS:
        return Confidence.LOW, f"{seen}: less than a week"
    if days < SURE_DAYS or covered < COVERED_SURE:
        enough = covered >= COVERED_LEAST
        return (Confidence.MEDIUM if enough else Confidence.LOW), seen
    return Confidence.HIGH, seen


def min_of(one: Confidence, other: Confidence) -> Confidence:
    """Return the lower of two."""
    order = list(Confidence)
    return min(one, other, key=order.index)


def _rounded(ram_bytes: int) -> int:
    """Return a size that a VM is given: up to a multiple of 128 MiB, above 4 GiB of 512 MiB."""
    step = 128 * MIB if ram_bytes <= 4 * GIB else 512 * MIB
    return -(-ram_bytes // step) * step
