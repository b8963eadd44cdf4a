"""Resident memory as a series of samples: its value at a moment, and its integral. Pure."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeVar

from giveback_kernel.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Moment(Protocol):
    """Something measured at a time, in seconds."""

    @property
    def t_s(self) -> float:
        """The time of the measurement, in seconds."""


class Timed(Moment, Protocol):
    """A sample: its time and the resident bytes at that time."""

    @property
    def resident_bytes(self) -> int:
        """The bytes that were resident at that time."""


_Sample = TypeVar("_Sample", bound=Moment)


def value_at(samples: Sequence[_Sample], t_s: float, value: Callable[[_Sample], float]) -> float:
    """Return a value at `t_s`, interpolated; constant before the first sample and after the last.

    Raises IndexError if there are no samples.
    """
    after = bisect_left(samples, t_s, key=lambda sample: sample.t_s)
    if after == len(samples):
        return value(samples[-1])
    later = samples[after]
    if after == 0 or later.t_s == t_s:
        return value(later)
    sooner = samples[after - 1]
    share = (t_s - sooner.t_s) / (later.t_s - sooner.t_s)
    return value(sooner) + share * (value(later) - value(sooner))


def resident_at(samples: Sequence[Timed], t_s: float) -> float:
    """Return the resident bytes at a moment; see `value_at`."""
    return value_at(samples, t_s, lambda sample: sample.resident_bytes)


def footprint_gib_min(samples: Sequence[Timed], begin_s: float, end_s: float) -> float:
    """Return the integral of resident memory over time, in GiB min.

    Raises IndexError if there are no samples.
    """
    if end_s <= begin_s:
        return 0.0
    inner = [(s.t_s, float(s.resident_bytes)) for s in samples if begin_s < s.t_s < end_s]
    points = [
        (begin_s, resident_at(samples, begin_s)),
        *inner,
        (end_s, resident_at(samples, end_s)),
    ]
    byte_seconds = sum((b_s - a_s) * (a + b) / 2 for (a_s, a), (b_s, b) in pairwise(points))
    return byte_seconds / GIB / 60
