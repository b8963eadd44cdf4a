"""CPU and swap use of a VMM, from one or two samples of its process."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.activity import UNKNOWN, activity_of, percent_of, swapped_of
from giveback.accounting.usage import HostSnapshot
from giveback.host.process_sample import ProcessSample

MIB = 1 << 20
FIRST = ProcessSample(at_s=200.0, started_s=100.0, cpu_s=25.0, uid=107, swap_bytes=8 * MIB)


def test_one_sample_gives_the_average_since_the_start_and_no_swap_rates() -> None:
    found = activity_of(FIRST)
    assert (found.uid, found.uptime_s, found.swap_bytes) == (107, 100.0, 8 * MIB)
    assert found.cpu_percent == 25.0
    assert found.swap_in_bytes_per_s is found.swap_out_bytes_per_s is None
    assert activity_of(None, FIRST) == UNKNOWN


@pytest.mark.parametrize(("swapped", "rates"), [(3, (2.5, 0)), (8, (0, 0)), (12, (0, 2))])
def test_two_samples_give_the_rates_between_them(swapped: int, rates: tuple[float, float]) -> None:
    now = replace(FIRST, at_s=202.0, cpu_s=28.0, swap_bytes=swapped * MIB)
    found = activity_of(now, FIRST)
    assert found.cpu_percent == 150.0
    assert (found.swap_in_bytes_per_s, found.swap_out_bytes_per_s) == tuple(r * MIB for r in rates)


def test_an_earlier_process_of_the_same_pid_is_ignored() -> None:
    other = replace(FIRST, started_s=199.0, cpu_s=0.5)
    assert activity_of(other, FIRST) == activity_of(other)


def test_samples_too_close_to_each_other_give_no_rate() -> None:
    near = replace(FIRST, at_s=200.01, swap_bytes=0)
    assert activity_of(near, FIRST).swap_in_bytes_per_s is None
    assert activity_of(replace(FIRST, started_s=200.0)).cpu_percent is None


TIMES = st.floats(0, 1e9)
SAMPLES = st.builds(
    ProcessSample, TIMES, st.sampled_from([0.0, 5.0]), TIMES, st.none() | st.integers(0),
    st.none() | st.integers(0, 1 << 60),
)  # fmt: skip


@given(SAMPLES, st.none() | SAMPLES)
def test_nothing_is_negative(now: ProcessSample, before: ProcessSample | None) -> None:
    found = activity_of(now, before)
    for value in (found.uptime_s, found.cpu_percent, found.swap_in_bytes_per_s,
                  found.swap_out_bytes_per_s):  # fmt: skip
        assert value is None or value >= 0


def test_the_part_in_per_cent() -> None:
    assert percent_of(1, 4) == 25.0
    assert percent_of(None, 4) is percent_of(1, None) is percent_of(1, 0) is None


def test_mappings_count_swapped_shared_memory() -> None:
    known = activity_of(FIRST)
    assert swapped_of(None, known) == 8 * MIB
    assert swapped_of(None, UNKNOWN) is None
    shared = HostSnapshot(0, ram_swap_bytes=90 * MIB, own_swap_bytes=MIB)
    assert swapped_of(shared, known) == 91 * MIB
    assert swapped_of(HostSnapshot(0), known) == 8 * MIB
