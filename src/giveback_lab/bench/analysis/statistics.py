"""Median and spread of a few rounds, and whether two strategies differ at all. Pure.

Strategies are compared within a round, as the ratio of the one to the other, because a machine drifts
from round to round. The median ratio's interval is free of assumptions on the distribution: between
two order statistics, chosen as in the sign test (Conover, Practical Nonparametric Statistics, 3.2).
With fewer than six rounds that is from the least to the greatest, which holds the true median with a
probability of 1 - 2^(1-n): 50 % with two rounds, 75 % with three, 94 % with five. So that two rounds
which agree by chance prove nothing, the interval never is narrower than what `none` itself varies by.
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
    """`count` values: their median, least and greatest, and median absolute deviation."""

    count: int
    median: float
    low: float
    high: float
    mad: float

    @property
    def is_known(self) -> bool:
        """Whether there is any spread to speak of: one round has none."""
        return self.count > 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One strategy against another over the rounds that both have: the ratio, the other being 1.

    `low` and `high` bound what the ratio may be, noise considered; None: one round, nothing known.
    `noise` is the half-width that `none`'s own spread asks for, None where `none` says nothing.
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
        """Whether there is a difference outside the noise; None where the noise is not known."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 1.0 <= self.high


def spread_of(values: Iterable[float]) -> Spread | None:
    """The spread of these values, which are finite; None where there are none."""
    known = sorted(values)
    if not known:
        return None
    middle = median(known)
    mad = median(abs(value - middle) for value in known)
    return Spread(len(known), middle, known[0], known[-1], mad)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Between which two of these values the true median lies with 95 %, or as near as they allow.

    None for fewer than two.
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
    """By how much the median ratio of `count` rounds may differ from 1 where nothing differs.

    `baseline` are the same figure of one and the same strategy in several rounds: a robust estimate
    of a round's standard deviation, doubled in variance for a ratio, less for more rounds. None where
    there is only one, or its median is nothing.
    """
    of_baseline = spread_of(baseline)
    if of_baseline is None or not of_baseline.is_known or of_baseline.median <= 0 or count < 1:
        return None
    return SIGMA_PER_MAD * of_baseline.mad / of_baseline.median * math.sqrt(2 / count)


def compare(
    ours: Mapping[int, float], theirs: Mapping[int, float], baseline: Iterable[float] = ()
) -> Comparison | None:
    """Compare by round (the mappings' keys). None where no round has both, theirs above nothing."""
    rounds = sorted(r for r in ours.keys() & theirs.keys() if theirs[r] > 0)
    if not rounds:
        return None
    ratios = [ours[r] / theirs[r] for r in rounds]
    ratio = median(ratios)
    noise = own_noise(baseline, len(rounds))
    interval = median_interval(ratios)
    low = high = None
    if interval is not None or noise is not None:
        # A share of the ratio, not of 1: half as much memory varies by half as much.
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
