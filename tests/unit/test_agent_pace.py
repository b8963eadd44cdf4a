"""How often a guest is looked at."""

from __future__ import annotations

import pytest
from agent_guests import snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent import gate, pace
from giveback_agent.gate import GateState
from giveback_agent.kernel.meminfo import MemInfo
from giveback_agent.pace import Pace
from giveback_agent.record import replace

MIB = 1 << 20
BUSY = GateState(level=gate.BUSY)
SLACK = GateState(level=gate.SLACK)
SETTLING = GateState(level=gate.SLACK, calm_since_s=5.0)
IDLE = GateState(level=gate.IDLE, calm_since_s=5.0)


@pytest.mark.parametrize(
    ("before", "now", "looks", "period_s"),
    [
        (BUSY, BUSY, 0, pace.WATCH_PERIOD_S),
        (BUSY, SLACK, 0, pace.PASS_PERIOD_S),
        (SLACK, SLACK, 0, pace.WATCH_PERIOD_S),
        (SLACK, SETTLING, 41, pace.PASS_PERIOD_S),
        (SETTLING, SETTLING, 41, pace.PASS_PERIOD_S),
        (SETTLING, IDLE, 0, pace.WATCH_PERIOD_S),
        (IDLE, IDLE, 41, pace.QUIET_PERIOD_S),
    ],
)
def test_the_next_look_is_soon_where_work_seems_to_end(
    before: GateState, now: GateState, looks: int, period_s: float
) -> None:
    assert pace.period_s(pace.after_look(Pace(looks), before, now), now) == period_s


def test_calm_that_comes_back_is_looked_at_anew() -> None:
    assert pace.after_look(Pace(41), SLACK, SETTLING).looks == 0
    assert pace.after_look(Pace(41), IDLE, IDLE).looks == 41
    assert pace.after_look(Pace(41), IDLE, SETTLING).looks == 41


def test_work_that_is_no_longer_calm_is_not_looked_at_as_seldom_as_a_quiet_guest() -> None:
    """Work of 10 s that began between two looks had ended for 18 s before the next but one."""
    assert pace.held_up(Pace(41), SLACK).looks == 0
    assert pace.held_up(Pace(41), IDLE).looks == 0  # a rest
    assert pace.held_up(Pace(41), SETTLING).looks == 41


def test_a_quiet_guest_is_pictured_at_every_sixth_look() -> None:
    looked, due = Pace(), []
    for number in range(1, 25):
        looked = pace.counted(looked)
        if pace.is_turn(looked, IDLE):
            due.append(number)
    assert due == [1, 2, 3, 4, 5, 6, 12, 18, 24]


def test_a_quiet_guest_that_worked_a_little_is_pictured() -> None:
    looked = pace.pictured(Pace(41), replace(IDLE, work_cpu_s=50.0))
    assert not pace.is_turn(looked, replace(IDLE, work_cpu_s=50.9))
    assert pace.is_turn(looked, replace(IDLE, work_cpu_s=51.0))


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

    moved = pace.has_moved(memory(free, cache), memory(free_now, cache_now), least * MIB)
    assert moved == (abs(free_now - free) >= least or abs(cache_now - cache) >= least)
