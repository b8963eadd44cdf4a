"""The forecast of when the host's memory runs out, from the last samples."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback.manager.decide import forecast
from giveback.manager.decide.forecast import ForecastSample

GIB = 1 << 30
AMOUNTS = st.lists(st.integers(0, 64 * GIB), min_size=3, max_size=24)


def looks_of(amounts: list[int], step_s: float = 1.0) -> tuple[ForecastSample, ...]:
    return tuple(ForecastSample(index * step_s, amount) for index, amount in enumerate(amounts))


def test_a_steady_fall_is_seen_as_it_is() -> None:
    slope = forecast.slope_bytes_per_s(looks_of([8 * GIB - n * GIB // 4 for n in range(8)]))
    assert slope == pytest.approx(-GIB / 4)
    assert forecast.seconds_until(3 * GIB, GIB, slope) == pytest.approx(8.0)


def test_one_jump_does_not_make_a_trend() -> None:
    assert forecast.slope_bytes_per_s(looks_of([8 * GIB] * 6 + [2 * GIB])) == 0


def test_neither_two_samples_nor_noise_are_a_trend() -> None:
    assert forecast.slope_bytes_per_s(looks_of([GIB, 0])) == 0
    falling = looks_of([GIB, GIB - 100, GIB - 200])
    assert forecast.slope_bytes_per_s(falling) < 0
    assert forecast.slope_bytes_per_s(falling, noise_bytes=1 << 20) == 0


def test_what_does_not_fall_never_runs_out_and_neither_does_what_falls_slowly() -> None:
    assert forecast.seconds_until(GIB, 0, 0.0) is None
    assert forecast.seconds_until(GIB, 0, 5.0) is None
    assert forecast.seconds_until(GIB, 0, -1.0) is None
    assert forecast.seconds_until(0, GIB, -1.0) == 0


def test_old_samples_are_dropped() -> None:
    looks = forecast.keep(looks_of([GIB] * 100, step_s=5.0))
    assert looks[-1].at_s - looks[0].at_s <= forecast.WINDOW_S
    assert len(forecast.keep(looks_of([GIB] * 1000, step_s=0.01))) < 100


@pytest.mark.parametrize(
    ("change", "over_s", "rate"), [(100, 2.0, 50.0), (-5, 1.0, 0.0), (5, 0.0, 0.0), (5, -1.0, 0.0)]
)
def test_a_rate_never_comes_of_a_counter_or_a_clock_that_went_back(
    change: int, over_s: float, rate: float
) -> None:
    assert forecast.rate(change, over_s) == rate


@settings(deadline=None)
@given(AMOUNTS, st.integers(0, 64 * GIB))
def test_the_lower_the_last_look_the_steeper_the_slope(amounts: list[int], lower: int) -> None:
    looks = looks_of(amounts)
    last = ForecastSample(looks[-1].at_s, min(lower, looks[-1].available_bytes))
    steeper = forecast.slope_bytes_per_s((*looks[:-1], last))
    assert steeper <= forecast.slope_bytes_per_s(looks)


@settings(deadline=None)
@given(AMOUNTS, st.integers(0, GIB))
def test_a_shifted_series_has_the_same_slope(amounts: list[int], shift: int) -> None:
    moved = [amount + shift for amount in amounts]
    slope = forecast.slope_bytes_per_s(looks_of(amounts))
    assert forecast.slope_bytes_per_s(looks_of(moved)) == pytest.approx(slope)
