"""Senpai's two laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel.record import replace
from giveback_lab_guest.strategies import senpai
from giveback_lab_guest.strategies.loop import with_options
from giveback_lab_guest.strategies.senpai import SenpaiSample, SenpaiState

MIB = 1 << 20
PAGE = 4096
TMO = senpai.RULES["senpai"]
OOMD = senpai.RULES["senpai-oomd"]
CALM = SenpaiSample(6.0, 1000 * MIB, 600 * MIB, (0.0, 0.0, 0.0, 0.0), 0)
BEFORE = SenpaiState(stalled_us=0, at_s=0.0)


def test_the_papers_law_takes_a_two_thousandth_when_calm() -> None:
    amount, _ = senpai.tmo(TMO, BEFORE, CALM)
    assert amount == 1000 * MIB // 2000 // PAGE * PAGE


def test_half_the_stalls_allowed_halve_it_and_all_of_them_end_it() -> None:
    whole, _ = senpai.tmo(TMO, BEFORE, CALM)
    half, _ = senpai.tmo(TMO, BEFORE, replace(CALM, stalled_us=3000))
    none, _ = senpai.tmo(TMO, BEFORE, replace(CALM, stalled_us=6000))
    assert whole // 2 - PAGE <= half <= whole // 2 + PAGE
    assert none == 0


def test_its_first_look_only_looks() -> None:
    amount, state = senpai.tmo(TMO, SenpaiState(), CALM)
    assert amount == 0
    assert (state.stalled_us, state.at_s) == (0, 6.0)


def test_oomds_law_takes_a_hundredth_of_what_is_above_the_least_each_sixth_tick() -> None:
    state, amounts = SenpaiState(), []
    for _ in range(13):
        amount, state = senpai.oomd(OOMD, state, CALM)
        amounts.append(amount)
    assert [number for number, amount in enumerate(amounts, 1) if amount] == [6, 12]
    assert amounts[5] == 5 * MIB


def test_stalls_delay_it_to_the_next_calm_tick() -> None:
    state = SenpaiState(ticks=5)
    for index in range(4):
        averages = tuple(0.1 if at == index else 0.0 for at in range(4))
        amount, state = senpai.oomd(OOMD, state, replace(CALM, averages=averages))
        assert amount == 0
    assert senpai.oomd(OOMD, state, CALM)[0] == 5 * MIB


def test_nothing_is_taken_below_the_least() -> None:
    assert (
        senpai.oomd(OOMD, SenpaiState(ticks=9), replace(CALM, reclaimable_bytes=100 * MIB))[0] == 0
    )


@given(
    st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.floats(0, 100), st.integers(0, 1 << 40),
    st.floats(0, 1e6),
)  # fmt: skip
def test_neither_law_asks_for_more_than_its_share(
    current: int, reclaimable: int, average: float, stalled_us: int, at_s: float
) -> None:
    seen = SenpaiSample(at_s, current, min(current, reclaimable), (average,) * 4, stalled_us)
    assert 0 <= senpai.tmo(TMO, BEFORE, seen)[0] <= current * TMO.ratio
    assert 0 <= senpai.oomd(OOMD, SenpaiState(ticks=5), seen)[0] <= current * OOMD.ratio


def test_constants_can_be_changed_and_only_these() -> None:
    changed = with_options(TMO, ["period_s=0.5", "ticks=2"])
    assert (changed.period_s, changed.ticks) == (0.5, 2)
    for wrong in ("nosuch=1", "period_s=x", "ticks=1.5", "ticks"):
        with pytest.raises(ValueError, match=r"."):
            with_options(TMO, [wrong])
