"""WSL's rules until 2.9 and of 2026, by their published constants."""

from __future__ import annotations

from itertools import pairwise

from agent_guests import ABLE, memory, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import wsl_modes
from giveback_agent.policy.activity.idleness import Activity
from giveback_agent.policy.observation import (
    GuestObservation,
)
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.cpustat import CpuStat
from giveback_kernel.meminfo import MemInfo
from giveback_kernel.record import replace
from giveback_kernel.units import GIB
from giveback_lab_guest.strategies import wsl, wsl_gen2
from giveback_lab_guest.strategies.wsl import WslGen1Rule, WslGen1State, WslStep

CPUS = 2
TICKS_PER_S = 100 * CPUS
DROP = wsl.RULES["wsl-gen1-dropcache"]
GRADUAL = wsl.RULES["wsl-gen1-gradual"]


def course(
    rule: WslGen1Rule, looks: list[int], in_use: int = 2 * GIB, state: WslGen1State | None = None
) -> list[tuple[int, WslStep]]:
    """Drive the rule with user ticks of each interval; return (sample's number, step)."""
    state = wsl.begin(rule) if state is None else state
    ticks, steps = 0, []
    for number, used in enumerate(looks, 1):
        ticks += used
        step, state = wsl.decide(rule, state, ticks, in_use, TICKS_PER_S)
        if step is not None:
            steps.append((number, step))
    return steps


def test_dropcache_waits_ten_minutes_and_drops_once() -> None:
    assert course(DROP, [1] * 60) == [(20, WslStep())]


def test_gradual_waits_three_minutes_and_takes_three_percent_each_look() -> None:
    steps = course(GRADUAL, [1] * 10)
    assert [number for number, _ in steps] == [6, 7, 8, 9, 10]
    assert {step.amount_bytes for _, step in steps} == {2 * GIB * 3 // 100}


def test_what_ran_before_the_start_counts_as_the_oldest_interval() -> None:
    # 0.5 % of 2 CPUs over 30 s are 30 ticks, and the whole window may have 7 times that.
    assert course(GRADUAL, [209, 0, 0, 0, 0, 0, 0])[0][0] == 6
    assert course(GRADUAL, [210, 0, 0, 0, 0, 0, 0])[0][0] == 7


def test_a_busy_interval_starts_a_new_idle_period() -> None:
    # 700 ticks exceed the window's 0.5 %, so they must have left it.
    assert [number for number, _ in course(DROP, [1] * 30 + [700] + [1] * 30)] == [20, 51]


def test_system_time_is_not_seen_at_all() -> None:
    """The rule takes user ticks alone: a guest busy in the kernel is idle to it."""
    assert course(DROP, [0] * 20) == [(20, WslStep())]


def test_gradual_stops_at_the_low_mark_and_goes_on_above_the_high_one() -> None:
    rule, state = GRADUAL, wsl.begin(GRADUAL)
    for _ in range(5):
        _, state = wsl.decide(rule, state, 0, 0, TICKS_PER_S)
    seen = []
    for in_use in (GIB + GIB // 50, GIB + GIB // 50, GIB * 109 // 100, GIB * 112 // 100, GIB // 2):
        step, state = wsl.decide(rule, state, 0, in_use, TICKS_PER_S)
        seen.append(step is not None)
    assert seen == [True, False, False, True, False]


def test_2019_only_compacts() -> None:
    assert course(wsl.RULES["wsl-2019"], [0] * 100) == []


def test_compaction_needs_something_to_have_run_and_nothing_to_run() -> None:
    state = replace(wsl.begin(DROP), compaction_ticks=100)
    assert not wsl.is_probe_due(state, 102, CPUS)
    assert wsl.is_probe_due(state, 103, CPUS)
    assert wsl.is_quiet(103, 104, CPUS)
    assert not wsl.is_quiet(103, 105, CPUS)


@given(
    st.sampled_from([DROP, GRADUAL]),
    st.lists(st.integers(0, 500), max_size=60),
    st.integers(0, 8 * GIB),
)
def test_nothing_is_taken_after_a_busy_interval(
    rule: WslGen1Rule, looks: list[int], in_use: int
) -> None:
    threshold = 30
    for number, step in course(rule, looks, in_use):
        assert looks[number - 1] < threshold
        assert number >= rule.intervals
        assert step.amount_bytes <= in_use * 3 // 100


@given(st.lists(st.integers(0, 500), max_size=80))
def test_dropcache_never_drops_twice_without_work_between(looks: list[int]) -> None:
    numbers = [number for number, _ in course(DROP, looks)]
    for first, second in pairwise(numbers):
        assert sum(looks[first:second]) > 0


def ticks_course(intervals: list[tuple[int, int]]) -> list[CpuStat]:
    """Return the counters of each sample, from (busy, idle) ticks of each interval."""
    busy = idle = 0
    stats = [CpuStat(0, 0, 0, 0, 0, 0, 0, 0, CPUS)]
    for busier, idler in intervals:
        busy, idle = busy + busier, idle + idler
        stats.append(CpuStat(busy, 0, 0, idle, 0, 0, 0, 0, CPUS))
    return stats


def of_2026(mode: str, stats: list[CpuStat], seen: MemInfo) -> list[tuple[int, wsl_gen2.Steps]]:
    rule, state = wsl_gen2.RULES[f"wsl-gen2-{mode}"], wsl_gen2.WslGen2State()
    steps = []
    for number, stat in enumerate(stats):
        step, state = wsl_gen2.decide(rule, state, stat, seen)
        if step != wsl_gen2.Steps():
            steps.append((number, step))
    return steps


def by_the_agent(
    mode: str, stats: list[CpuStat], seen: MemInfo
) -> list[tuple[int, wsl_gen2.Steps]]:
    """Feed the same samples to giveback's own mode; its pass ends before the next sample."""
    state, found = wsl_modes.WslState(), []
    for number, stat in enumerate(stats):
        now = replace(snapshot(10.0 * number), cpustat=stat, meminfo=seen)
        amount, drop, compact = 0, False, False
        for _ in range(5):
            looked = GuestObservation(now, Activity())
            actions, state = wsl_modes.decide(looked, state, AgentSettings(mode=mode), ABLE)
            for action in actions:
                amount += action.amount_bytes if isinstance(action, act.Reclaim) else 0
                drop = drop or isinstance(action, act.DropCaches)
                compact = compact or isinstance(action, act.Compact)
        if amount or drop or compact:
            found.append((number, wsl_gen2.Steps(amount, drop, compact)))
    return found


QUIET = (0, 2000)


def test_of_2026_dropcache_drops_and_compacts_once_after_two_minutes() -> None:
    steps = of_2026("dropcache", ticks_course([QUIET] * 30), memory(cache=900))
    assert steps == [(12, wsl_gen2.Steps(drop=True, compact=True))]


def test_of_2026_gradual_takes_a_step_each_look_down_to_its_floor() -> None:
    looks = ticks_course([QUIET] * 13)
    steps = of_2026("gradual", looks, memory(cache=900))
    assert [(n, s.reclaim_bytes >> 20, s.compact) for n, s in steps] == [
        (12, 256, True), (13, 256, True),
    ]  # fmt: skip
    # Nothing can be reclaimed: memory is compacted once, when idleness begins.
    steps = of_2026("gradual", looks, memory(cache=128))
    assert steps == [(12, wsl_gen2.Steps(compact=True))]


@given(
    st.sampled_from(["dropcache", "gradual"]),
    st.lists(
        st.sampled_from([QUIET, QUIET, QUIET, (9, 1991), (30, 1970), (900, 1100)]), max_size=60
    ),
    st.integers(0, 1500),
)
@settings(deadline=None)
def test_of_2026_and_the_agents_modes_are_one_rule(
    mode: str, intervals: list[tuple[int, int]], cache: int
) -> None:
    looks, seen = ticks_course(intervals), memory(cache=cache)
    assert of_2026(mode, looks, seen) == by_the_agent(mode, looks, seen)
