"""Forecast when the host's memory runs out, from the last samples of available memory. Pure.

The slope is the Theil-Sen estimator: the median of the slopes between all pairs of samples. A single jump
(a deleted file, a process that ended) hardly changes it, unlike least squares. With few samples a jump
is still much of the evidence. So if the last sample is not below the one before, memory is not running
out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_S = 30.0
_SAMPLES_LIMIT = 24
_LEAST_SAMPLES = 3
# Two samples closer than this show the kernel's own rounding rather than a trend.
_LEAST_APART_S = 0.05
FARTHEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class ForecastSample:
    """Available memory of the host at one time."""

    at_s: float
    available_bytes: int


def keep(samples: Sequence[ForecastSample]) -> tuple[ForecastSample, ...]:
    """Return the samples that count: the last 24 at most, none older than WINDOW_S, in order of time."""
    last_s = samples[-1].at_s
    return tuple(one for one in samples[-_SAMPLES_LIMIT:] if last_s - one.at_s <= WINDOW_S)


def slope_bytes_per_s(samples: Sequence[ForecastSample], noise_bytes: int = 0) -> float:
    """Return the trend of available memory; 0 with fewer than 3 samples, or a change within the noise."""
    if len(samples) < _LEAST_SAMPLES:
        return 0.0
    slopes = [
        (b.available_bytes - a.available_bytes) / (b.at_s - a.at_s)
        for index, a in enumerate(samples)
        for b in samples[index + 1 :]
        if b.at_s - a.at_s >= _LEAST_APART_S
    ]
    if not slopes:
        return 0.0
    last, before = samples[-1], samples[-2]
    pause = last.available_bytes >= before.available_bytes
    slope = max(median(slopes), 0.0) if pause else median(slopes)
    changed = abs(slope) * (samples[-1].at_s - samples[0].at_s)
    return slope if changed > noise_bytes and math.isfinite(slope) else 0.0


def seconds_until(available_bytes: int, mark_bytes: int, slope: float) -> float | None:
    """Return the seconds until `mark_bytes` is reached at this slope; None if not within an hour."""
    if slope >= 0:
        return None
    left_s = max(0, available_bytes - mark_bytes) / -slope
    return left_s if left_s <= FARTHEST_S else None


def rate(change: int, over_s: float) -> float:
    """Return a counter's growth per second; 0 if it went back (a reboot) or no time passed."""
    return change / over_s if change > 0 and over_s > 0 else 0.0
