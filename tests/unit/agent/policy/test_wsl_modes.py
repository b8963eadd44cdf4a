"""WSL's modes by WSL's published constants."""

from __future__ import annotations

from agent_guests import ABLE, MIB, cpu, memory, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import wsl_modes
from giveback_agent.policy.activity.idleness import Activity
from giveback_agent.policy.observation import (
    GuestObservation,
    KernelCapabilities,
    StepOutcome,
)
from giveback_agent.policy.wsl_modes import Interval, WslState
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace

DROP = AgentSettings(mode="dropcache")
GRADUAL = AgentSettings(mode="gradual")


def run(
    settings: AgentSettings, course: list[tuple[float, int, int]], can: KernelCapabilities = ABLE
) -> list[tuple[float, type[act.Action], int]]:
    """Drive the mode: (seconds, busy ticks, idle ticks) an interval; returns (when, kind, amount)."""
    state, now_s, busy, idle = WslState(), 0.0, 0, 0
    done: list[tuple[float, type[act.Action], int]] = []
    outcome = None
    for seconds, busy_ticks, idle_ticks in course:
        now_s, busy, idle = now_s + seconds, busy + busy_ticks, idle + idle_ticks
        for _ in range(6):
            now = replace(snapshot(now_s), cpustat=cpu(busy, idle), meminfo=memory(cache=900))
            seen = GuestObservation(now, Activity(), 1, None, outcome)
            actions, state = wsl_modes.decide(seen, state, settings, can)
            outcome = None
            for action in actions:
                amount = action.amount_bytes if isinstance(action, act.Reclaim) else 0
                what = action.what if isinstance(action, act.DropCaches) else 0
                done.append((now_s, type(action), amount or what))
                if isinstance(action, act.WorkerStep):
                    outcome = StepOutcome(action.kind, ok=True)
    return done


QUIET = [(10.0, 0, 2000)]


def test_dropcache_drops_once_per_idle_period_after_two_minutes() -> None:
    done = run(DROP, QUIET * 40)
    kinds = [kind for _, kind, _ in done]
    assert kinds == [act.BeginPass, act.DropCaches, act.Compact, act.EndPass]
    assert done[1][0] == 130.0
    assert done[1][2] == 3


def test_work_of_a_whole_window_starts_a_new_idle_period() -> None:
    done = run(DROP, QUIET * 20 + [(10.0, 2000, 0)] * 3 + QUIET * 40)
    assert [kind for _, kind, _ in done].count(act.DropCaches) == 2


def test_gradual_takes_a_step_at_each_poll_and_compacts_after_each() -> None:
    done = run(GRADUAL, QUIET * 15)
    amounts = [amount for _, kind, amount in done if kind == act.Reclaim]
    assert amounts == [256 * MIB] * 3
    assert [k for _, k, _ in done].count(act.Compact) == 3


def test_gradual_without_memory_reclaim_falls_back_to_dropping() -> None:
    done = run(GRADUAL, QUIET * 15, replace(ABLE, reclaim=False))
    assert act.DropCaches in [kind for _, kind, _ in done]


def test_disabled_does_nothing_at_all() -> None:
    assert run(AgentSettings(mode="disabled"), QUIET * 40) == []


def test_an_editor_keeps_it_from_ever_acting() -> None:
    assert run(DROP, [(10.0, 100, 1900)] * 60) == []


def test_steps_are_bounded_as_published() -> None:
    assert wsl_modes.step_bytes(2 << 30) == 256 * MIB
    assert wsl_modes.step_bytes(16 << 30) == 512 * MIB
    assert wsl_modes.step_bytes(256 << 30) == 1024 * MIB


@given(st.lists(st.builds(Interval, st.integers(0, 10**6), st.integers(0, 10**6)), max_size=12))
def test_only_a_full_window_can_be_idle(window: list[Interval]) -> None:
    idle = wsl_modes.is_idle(tuple(window))
    if idle:
        assert len(window) == wsl_modes.WINDOW_INTERVALS
        busy = sum(i.busy_ticks for i in window)
        assert busy * 200 <= busy + sum(i.idle_ticks for i in window)


def test_counters_that_run_backwards_start_the_window_again() -> None:
    state = WslState()
    for look in range(14):
        state = wsl_modes.track(state, look * 10.0, cpu(0, look * 2000))
    assert wsl_modes.is_idle(state.window)
    assert wsl_modes.track(state, 150.0, cpu(0, 5)).window == ()
