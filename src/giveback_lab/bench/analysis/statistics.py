"""Median and spread of a few rounds, and whether two strategies differ at all. Pure.

Strategies are compared within a round, as the ratio of one to the other, because a machine drifts
from round to round. The interval of the median ratio assumes no distribution: it lies between two
order statistics, chosen as in the sign test (Conover, Practical Nonparametric Statistics, 3.2).
With fewer than six rounds these are the least and the greatest. They enclose the true median with a
probability of 1 - 2^(1-n): 50 % with two rounds, 75 % with three, 94 % with five. Two rounds that
agree by chance must prove nothing, so the interval is never narrower than the variation of `none`
itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CONFIDENCE = 0.95
SIGMA_PER_MAD = 1.4826
"""The standard deviation of a normal distribution in median absolute deviations."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, least and greatest of `count` values, and their median absolute deviation."""

    count: int
    median: float
    low: float
    high: float
    mad: float

    @property
    def is_known(self) -> bool:
        """Whether there is a spread: one round has none."""
        return self.count > 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One strategy against another over the rounds that both have, as a ratio to the other.

    `low` and `high` bound the ratio with noise considered; None if one round leaves it unknown.
    `noise` is the half-width that follows from `none`'s own spread; None if `none` has too few
    rounds.
    """

    count: int
    ratio: float
    low: float | None
    high: float | None
    noise: float | None
    ours: float
    theirs: float

    @property
    def differs(self) -> bool | None:
        """Whether there is a difference outside the noise; None if the noise is unknown."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 1.0 <= self.high


def spread_of(values: Iterable[float]) -> Spread | None:
    """Return the spread of these finite values, or None if there are none."""
    known = sorted(values)
    if not known:
        return None
    middle = median(known)
    mad = median(abs(value - middle) for value in known)
    return Spread(len(known), middle, known[0], known[-1], mad)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return two of the values that enclose the true median with 95 %, or as near as they allow.

    Returns None for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return None
    ordered = sorted(values)
    outside, rank = 0.0, -1
    for successes in range(count // 2):
        outside += 2 * math.comb(count, successes) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        rank = successes
    rank = max(0, rank)
    return ordered[rank], ordered[-1 - rank]


def own_noise(baseline: Iterable[float], count: int) -> float | None:
    """Return how far the median ratio of `count` rounds may be from 1 when nothing differs.

    `baseline` has the same figure of one strategy in several rounds. The result is a robust
    estimate of a round's standard deviation, doubled in variance for a ratio, and less for more
    rounds. Returns None for a single value, or if the median is 0.
    """
    of_baseline = spread_of(baseline)
    if of_baseline is None or not of_baseline.is_known or of_baseline.median <= 0 or count < 1:
        return None
    return SIGMA_PER_MAD * of_baseline.mad / of_baseline.median * math.sqrt(2 / count)


def compare(
    ours: Mapping[int, float], theirs: Mapping[int, float], baseline: Iterable[float] = ()
) -> Comparison | None:
    """Compare by round (the mappings' keys). Return None if no round has both with theirs above 0."""
    rounds = sorted(r for r in ours.keys() & theirs.keys() if theirs[r] > 0)
    if not rounds:
        return None
    ratios = [ours[r] / theirs[r] for r in rounds]
    ratio = median(ratios)
    noise = own_noise(baseline, len(rounds))
    interval = median_interval(ratios)
    low = high = None
    if interval is not None or noise is not None:
        # Relative to the ratio, not to 1: half as much memory varies by half as much.
        least = (noise or 0.0) * abs(ratio)
        low, high = interval or (ratio, ratio)
        low, high = min(low, ratio - least), max(high, ratio + least)
    return Comparison(
        count=len(rounds),
        ratio=ratio,
        low=low,
        high=high,
        noise=noise,
        ours=median(ours[r] for r in rounds),
        theirs=median(theirs[r] for r in rounds),
    )
