"""WSL's rule until 2.9, by its published constants."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.record import replace
from giveback_lab_guest.strategies import wsl
from giveback_lab_guest.strategies.wsl import GIB, Rule, State, Step

CPUS = 2
TICKS_PER_S = 100 * CPUS
DROP = wsl.RULES["wsl-gen1-dropcache"]
GRADUAL = wsl.RULES["wsl-gen1-gradual"]


def course(
    rule: Rule, looks: list[int], in_use: int = 2 * GIB, state: State | None = None
) -> list[tuple[int, Step]]:
    """Drive the rule: user ticks of each interval; returns (look's number, step)."""
    state = wsl.begin(rule) if state is None else state
    ticks, steps = 0, []
    for number, used in enumerate(looks, 1):
        ticks += used
        step, state = wsl.decide(rule, state, ticks, in_use, TICKS_PER_S)
        if step is not None:
            steps.append((number, step))
    return steps


def test_dropcache_waits_ten_minutes_and_drops_once() -> None:
    assert course(DROP, [1] * 60) == [(20, Step())]


def test_gradual_waits_three_minutes_and_takes_three_percent_each_look() -> None:
    steps = course(GRADUAL, [1] * 10)
    assert [number for number, _ in steps] == [6, 7, 8, 9, 10]
    assert {step.amount_bytes for _, step in steps} == {2 * GIB * 3 // 100}


def test_what_ran_before_the_start_counts_as_the_oldest_interval() -> None:
    # 0.5 % of 2 CPUs over 30 s are 30 ticks, and the whole window may have 7 times that.
    assert course(GRADUAL, [209, 0, 0, 0, 0, 0, 0])[0][0] == 6
    assert course(GRADUAL, [210, 0, 0, 0, 0, 0, 0])[0][0] == 7


def test_a_busy_interval_starts_a_new_idle_period() -> None:
    # 700 ticks are more than the window's 0.5 %: it must have left it.
    assert [number for number, _ in course(DROP, [1] * 30 + [700] + [1] * 30)] == [20, 51]


def test_system_time_is_not_seen_at_all() -> None:
    """The rule takes user ticks alone: a guest busy in the kernel is idle to it."""
    assert course(DROP, [0] * 20) == [(20, Step())]


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
def test_nothing_is_taken_after_a_busy_interval(rule: Rule, looks: list[int], in_use: int) -> None:
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
