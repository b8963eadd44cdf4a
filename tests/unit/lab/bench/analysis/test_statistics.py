"""Medians of few rounds, and when a difference counts as none."""

from __future__ import annotations

import random
from statistics import median

import pytest
from bench_results import patient
from hypothesis import given
from hypothesis import strategies as st

from giveback_lab.bench.analysis.statistics import compare, median_interval, own_noise, spread_of

values = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=25)


def by_round(*found: float) -> dict[int, float]:
    return dict(enumerate(found, 1))


def test_nothing_has_no_spread() -> None:
    assert spread_of([]) is None
    assert compare({}, by_round(1)) is None
    assert compare(by_round(1), {2: 1.0}) is None
    assert compare(by_round(1), by_round(0)) is None


def test_one_round_has_a_median_and_no_spread() -> None:
    spread = spread_of([3.0])
    assert spread is not None
    assert (spread.median, spread.is_known) == (3.0, False)
    compared = compare(by_round(2), by_round(4), [4.0])
    assert compared is not None
    assert (compared.ratio, compared.low, compared.differs) == (0.5, None, None)


def test_one_common_round_still_knows_the_noise_of_none() -> None:
    compared = compare(by_round(1.01), by_round(1.0, 1.02, 0.97), [1.0, 1.02, 0.97])
    assert compared is not None
    assert compared.differs is False
    assert compare(by_round(2), by_round(1), [1.0, 1.02]).differs is True  # type: ignore[union-attr]


def test_two_rounds_that_agree_by_chance_prove_nothing() -> None:
    compared = compare(by_round(1.02, 1.02), by_round(1.0, 1.0), [0.95, 1.05])
    assert compared is not None
    assert compared.differs is False
    assert compared.noise is not None
    assert compared.noise > 0.05


def test_three_rounds_on_both_sides_of_one_are_no_difference() -> None:
    assert compare(by_round(1.01, 0.99, 1.02), by_round(1, 1, 1)).differs is False  # type: ignore[union-attr]
    assert compare(by_round(1.03, 1.02, 1.04), by_round(1, 1, 1)).differs is True  # type: ignore[union-attr]


def test_pairs_take_a_drifting_machine_out() -> None:
    drift = (1.0, 1.3, 0.8, 1.1, 1.5)
    compared = compare(by_round(*(0.5 * d for d in drift)), by_round(*drift))
    assert compared is not None
    assert compared.ratio == pytest.approx(0.5)
    assert compared.high == pytest.approx(0.5)


def test_only_common_rounds_are_compared() -> None:
    compared = compare({1: 1.0, 3: 4.0, 4: 9.0}, {2: 7.0, 3: 2.0, 5: 1.0})
    assert compared is not None
    assert (compared.count, compared.ratio, compared.ours, compared.theirs) == (1, 2.0, 4.0, 2.0)


def test_intervals_get_tighter_than_the_range_from_six_rounds_on() -> None:
    assert median_interval([1]) is None
    assert median_interval([1, 2, 3, 4, 5]) == (1, 5)
    assert median_interval(range(1, 7)) == (1, 6)
    assert median_interval(range(1, 10)) == (2, 8)
    assert median_interval(range(1, 21)) == (6, 15)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    rng = random.Random(7)
    held = 0
    for _ in range(2000):
        low, high = median_interval([rng.gauss(5, 1) for _ in range(9)]) or (0, 0)
        held += low <= 5 <= high
    assert held / 2000 > 0.94


def test_noise_shrinks_with_rounds_and_is_unknown_of_one() -> None:
    assert own_noise([1.0], 3) is None
    assert own_noise([0.0, 0.0], 3) is None
    few, many = own_noise([1.0, 1.1, 0.9], 2), own_noise([1.0, 1.1, 0.9], 8)
    assert few is not None
    assert many is not None
    assert few == pytest.approx(2 * many)


@patient
@given(values)
def test_a_spread_is_in_order(found: list[float]) -> None:
    spread = spread_of(found)
    assert spread is not None
    assert spread.low <= spread.median <= spread.high
    assert 0 <= spread.mad <= spread.high - spread.low + 1e-9
    assert spread.count == len(found)


@patient
@given(values)
def test_an_interval_holds_its_median_and_ends_at_values(found: list[float]) -> None:
    interval = median_interval(found)
    if interval is None:
        assert len(found) == 1
        return
    low, high = interval
    assert low <= median(found) <= high
    assert low in found
    assert high in found


@patient
@given(values, st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_comparison_has_no_unit(found: list[float], factor: float, unit: float) -> None:
    theirs = by_round(*found)
    ours = {number: factor * value for number, value in theirs.items()}
    scaled = compare(
        {n: unit * v for n, v in ours.items()}, {n: unit * v for n, v in theirs.items()}
    )
    assert scaled is not None
    assert scaled.ratio == pytest.approx(factor)


@patient
@given(values, values)
def test_bounds_hold_the_ratio_and_noise_only_widens_them(
    found: list[float], baseline: list[float]
) -> None:
    ones = by_round(*([1.0] * len(found)))
    without, noisy = compare(by_round(*found), ones), compare(by_round(*found), ones, baseline)
    assert without is not None
    assert noisy is not None
    if noisy.low is not None and noisy.high is not None:
        assert noisy.low <= noisy.ratio <= noisy.high
    if without.low is not None and noisy.low is not None:
        assert noisy.low <= without.low
        assert (noisy.high or 0) >= (without.high or 0)


@patient
@given(values)
def test_the_same_never_differs(found: list[float]) -> None:
    compared = compare(by_round(*found), by_round(*found), found)
    assert compared is not None
    assert compared.differs is not True
