"""Counters that run backwards, or wrap, between two samples: nothing is concluded from them."""

from __future__ import annotations

from agent_guests import cpu, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import cache_goal
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.activity.idleness import Activity, Stalls
from giveback_agent.policy.cache_goal import FloorState

MIB = 1 << 20
COUNTERS = st.integers(0, (1 << 64) - 1)


def looked(state: Activity, now_s: float, ticks: tuple[int, int], stalls: Stalls) -> Activity:
    return idleness.judge(state, now_s, cpu(*ticks), 0.0, stalls, 20.0, 10.0, 100)


def test_stall_times_that_went_back_are_no_stall() -> None:
    before = looked(Activity(), 0.0, (0, 0), Stalls(5_000_000, 5_000_000))
    after = looked(before, 20.0, (10, 4000), Stalls(1_000, 1_000))
    assert (after.level, after.short_of_memory) == (idleness.IDLE, False)
    # Counting continues from there.
    stalled = looked(after, 40.0, (20, 8000), Stalls(19_000_000, 1_000))
    assert (stalled.level, stalled.short_of_memory) == (idleness.BUSY, True)


def test_cpu_times_that_ran_backwards_start_again() -> None:
    before = looked(Activity(), 0.0, (5000, 5000), Stalls())
    idle = looked(before, 20.0, (5010, 9000), Stalls())
    again = looked(idle, 40.0, (10, 100), Stalls())
    assert (idle.level, again.level, again.idle_since_s) == (idleness.IDLE, idleness.BUSY, None)


@given(st.lists(st.tuples(COUNTERS, COUNTERS, COUNTERS, COUNTERS), max_size=8))
def test_any_counters_are_judged(samples: list[tuple[int, int, int, int]]) -> None:
    state = Activity()
    for number, (busy, idle, memory_us, io_us) in enumerate(samples):
        state = looked(state, 10.0 * number, (busy, idle), Stalls(memory_us, io_us))
        assert 0.0 <= state.busy_percent <= 100.0


@given(st.lists(COUNTERS, max_size=8))
def test_refaults_that_went_back_raise_no_floor(counts: list[int]) -> None:
    state = FloorState()
    for number, refaults in enumerate(counts):
        before = state
        state = cache_goal.learn(state, snapshot(10.0 * number, refaults=refaults))
        assert 0 <= state.learned_bytes <= 1024 * MIB  # half of the guest's RAM
        if before.refaults is not None and refaults < before.refaults:
            assert state.learned_bytes == before.learned_bytes
