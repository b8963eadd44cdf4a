"""When the host's memory runs out, if it goes on as in the last looks. Pure.

The slope is Theil and Sen's: the median of the slopes between all pairs of looks. A single jump (a
file that was deleted, a process that ended) does not move it, where least squares would follow. With
few looks a jump is still much of the evidence, so the last two must agree: what has stopped falling is
not running out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_S = 30.0
_LOOKS_LIMIT = 24
_LEAST_LOOKS = 3
# A pair of looks closer than this says more of the kernel's own rounding than of a trend.
_LEAST_APART_S = 0.05
FARTHEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class ForecastSample:
    """Available memory at a time."""

    at_s: float
    available_bytes: int


def keep(looks: Sequence[ForecastSample]) -> tuple[ForecastSample, ...]:
    """The looks that count: the last ones, in order of time, none older than WINDOW_S."""
    last_s = looks[-1].at_s
    return tuple(look for look in looks[-_LOOKS_LIMIT:] if last_s - look.at_s <= WINDOW_S)


def slope_bytes_per_s(looks: Sequence[ForecastSample], noise_bytes: int = 0) -> float:
    """How available memory changes; 0 where too few looks tell, or the change is within the noise."""
    if len(looks) < _LEAST_LOOKS:
        return 0.0
    slopes = [
        (b.available_bytes - a.available_bytes) / (b.at_s - a.at_s)
        for index, a in enumerate(looks)
        for b in looks[index + 1 :]
        if b.at_s - a.at_s >= _LEAST_APART_S
    ]
    if not slopes:
        return 0.0
    last, before = looks[-1], looks[-2]
    pause = last.available_bytes >= before.available_bytes
    slope = max(median(slopes), 0.0) if pause else median(slopes)
    changed = abs(slope) * (looks[-1].at_s - looks[0].at_s)
    return slope if changed > noise_bytes and math.isfinite(slope) else 0.0


def seconds_until(available_bytes: int, mark_bytes: int, slope: float) -> float | None:
    """When `mark_bytes` is reached at this slope; None where it is not, or not within an hour."""
    if slope >= 0:
        return None
    left_s = max(0, available_bytes - mark_bytes) / -slope
    return left_s if left_s <= FARTHEST_S else None


def rate(change: int, over_s: float) -> float:
    """A counter's growth in a second; 0 where it went back (a reboot) or no time passed."""
    return change / over_s if change > 0 and over_s > 0 else 0.0
