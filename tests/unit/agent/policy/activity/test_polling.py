"""How often a guest is sampled."""

from __future__ import annotations

import pytest
from agent_guests import snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy.activity import idleness, polling
from giveback_agent.policy.activity.idleness import Activity
from giveback_agent.policy.activity.polling import Pace
from giveback_kernel.meminfo import MemInfo
from giveback_kernel.record import replace

MIB = 1 << 20
BUSY = Activity(level=idleness.BUSY)
SPARE = Activity(level=idleness.SPARE)
SETTLING = Activity(level=idleness.SPARE, idle_since_s=5.0)
IDLE = Activity(level=idleness.IDLE, idle_since_s=5.0)


@pytest.mark.parametrize(
    ("before", "now", "polls", "period_s"),
    [
        (BUSY, BUSY, 0, polling.WATCH_PERIOD_S),
        (BUSY, SPARE, 0, polling.PASS_PERIOD_S),
        (SPARE, SPARE, 0, polling.WATCH_PERIOD_S),
        (SPARE, SETTLING, 41, polling.PASS_PERIOD_S),
        (SETTLING, SETTLING, 41, polling.PASS_PERIOD_S),
        (SETTLING, IDLE, 0, polling.WATCH_PERIOD_S),
        (IDLE, IDLE, 41, polling.QUIET_PERIOD_S),
    ],
)
def test_the_next_poll_is_soon_if_the_workload_seems_to_end(
    before: Activity, now: Activity, polls: int, period_s: float
) -> None:
    assert polling.period_s(polling.after_poll(Pace(polls), before, now), now) == period_s


def test_a_guest_that_is_idle_again_is_polled_quickly() -> None:
    assert polling.after_poll(Pace(41), SPARE, SETTLING).polls == 0
    assert polling.after_poll(Pace(41), IDLE, IDLE).polls == 41
    assert polling.after_poll(Pace(41), IDLE, SETTLING).polls == 41


def test_a_guest_that_is_no_longer_idle_is_polled_more_often_than_a_quiet_one() -> None:
    """A workload of 10 s that began between two polls had ended 18 s before the next but one."""
    assert polling.held_up(Pace(41), SPARE).polls == 0
    assert polling.held_up(Pace(41), IDLE).polls == 0  # a rest
    assert polling.held_up(Pace(41), SETTLING).polls == 41


def test_a_quiet_guest_gets_a_snapshot_at_every_sixth_poll() -> None:
    looked, due = Pace(), []
    for number in range(1, 25):
        looked = polling.counted(looked)
        if polling.is_turn(looked, IDLE):
            due.append(number)
    assert due == [1, 2, 3, 4, 5, 6, 12, 18, 24]


def test_a_quiet_guest_that_was_active_for_a_second_gets_a_snapshot() -> None:
    looked = polling.after_snapshot(Pace(41), replace(IDLE, work_cpu_s=50.0))
    assert not polling.is_turn(looked, replace(IDLE, work_cpu_s=50.9))
    assert polling.is_turn(looked, replace(IDLE, work_cpu_s=51.0))


@given(*[st.integers(0, 2048)] * 4, st.integers(1, 64))
def test_totals_that_moved_are_seen_whichever_way(
    free: int, cache: int, free_now: int, cache_now: int, least: int
) -> None:
    def memory(free_mib: int, cache_mib: int) -> MemInfo:
        return replace(
            snapshot(0.0).meminfo,
            mem_free_bytes=free_mib * MIB,
            active_file_bytes=0,
            inactive_file_bytes=cache_mib * MIB,
        )

    moved = polling.has_moved(memory(free, cache), memory(free_now, cache_now), least * MIB)
    assert moved == (abs(free_now - free) >= least or abs(cache_now - cache) >= least)
