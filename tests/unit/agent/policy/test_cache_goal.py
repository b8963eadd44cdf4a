"""A regretted reclaim of ended cgroups' cache delays the next."""

from __future__ import annotations

from itertools import pairwise

from agent_guests import ABLE, MIB, observation, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import adaptive, cache_goal
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.adaptive import PolicyState
from giveback_agent.policy.cache_goal import EndedRegret
from giveback_agent.policy.observation import Snapshot, StepOutcome
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace
from giveback_kernel.vmstat import VmStat


def at(now_s: float, refaults: int = 0, read_mib: int = 0, cache: int = 200) -> Snapshot:
    vm = VmStat(0, workingset_refault_file=refaults, pgpgin=read_mib << 10)
    return replace(snapshot(now_s, cache=cache), vmstat=vm)


def round_(
    state: EndedRegret, now_s: float, refaults: int, read_mib: int, grown: int
) -> EndedRegret:
    """A reclaim of 100 MiB, and the counters after it."""
    state = cache_goal.took_ended(state, now_s, 100 * MIB)
    state = cache_goal.learn_regret(state, at(now_s + 1))
    state = cache_goal.learn_regret(state, at(now_s + 30, refaults, read_mib, 200 + grown))
    return cache_goal.learn_regret(state, at(now_s + 70, refaults, read_mib, 200 + grown))


def test_each_regret_doubles_the_wait_and_a_good_take_halves_it() -> None:
    state, waits = EndedRegret(), []
    for number in range(8):
        state = round_(state, 10_000.0 * number, 0, 100, 90)
        waits.append(state.wait_s)
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    state = round_(state, 80_000.0, 0, 0, 0)
    assert state.wait_s == 1800


def test_long_quiet_is_forgotten() -> None:
    state = round_(EndedRegret(), 0.0, 0, 100, 90)
    state = cache_goal.took_ended(state, cache_goal.FORGET_S + 100, 100 * MIB)
    assert state.wait_s == 0
    assert state.may_take(cache_goal.FORGET_S + 101)


def test_refaults_and_reads_that_stay_cached_are_regret_and_nothing_else() -> None:
    assert round_(EndedRegret(), 0.0, 5000, 0, 0).wait_s == 60
    assert round_(EndedRegret(), 0.0, 500, 0, 0).wait_s == 0
    assert round_(EndedRegret(), 0.0, 0, 100, 10).wait_s == 0, "read, and gone again"
    assert round_(EndedRegret(), 0.0, 0, 10, 100).wait_s == 0, "written"
    late = cache_goal.took_ended(EndedRegret(), 0.0, 100 * MIB)
    late = cache_goal.learn_regret(cache_goal.learn_regret(late, at(1.0)), at(90.0, 50_000))
    assert late.wait_s == 0


def test_reads_of_far_more_than_was_taken_are_of_other_files() -> None:
    """Containers of a whole day read gigabytes soon after some MiB of an ended one were reclaimed."""
    state = cache_goal.learn_regret(
        cache_goal.took_ended(EndedRegret(), 0.0, 40 * MIB), at(1.0, cache=200)
    )
    state = cache_goal.learn_regret(state, at(10.0, 0, 30, 230))
    assert not state.may_take(20.0), "it may be the same service again: no more is taken meanwhile"
    state = cache_goal.learn_regret(state, at(20.0, 0, 900, 1100))
    assert state.may_take(21.0)
    assert cache_goal.learn_regret(state, at(70.0, 0, 900, 1100)).wait_s == 0


def test_a_cache_that_was_taken_in_two_steps_is_regretted_as_a_whole() -> None:
    state = cache_goal.took_ended(EndedRegret(), 0.0, 140 * MIB)
    state = cache_goal.learn_regret(state, at(1.0))
    state = cache_goal.took_ended(state, 10.0, 20 * MIB)
    state = cache_goal.learn_regret(state, at(11.0))
    state = cache_goal.learn_regret(state, at(15.0, 0, 150, 350))
    assert not state.may_take(60.0)
    assert cache_goal.learn_regret(state, at(80.0, 0, 150, 350)).wait_s == 60


@given(st.lists(st.tuples(st.floats(0.1, 5000), st.integers(0, 1 << 20), st.integers(0, 1 << 12))))
def test_no_course_waits_longer_than_the_cap(course: list[tuple[float, int, int]]) -> None:
    state, now_s, refaults, read = EndedRegret(), 0.0, 0, 0
    for seconds, more, read_mib in course:
        now_s, refaults, read = now_s + seconds, refaults + more, read + read_mib
        state = cache_goal.learn_regret(state, at(now_s, refaults, read, 200 + read_mib))
        if state.may_take(now_s):
            state = cache_goal.took_ended(state, now_s, 50 * MIB)
        assert state.until_s <= now_s + cache_goal.MOST_WAIT_S


def test_a_regretted_take_is_not_repeated_at_once_by_the_policy() -> None:
    state, settings = PolicyState(next_ended_s=0.0), AgentSettings()
    taken: list[int] = []
    for second in range(300):
        is_back = bool(taken) and second >= taken[-1] + 5
        now = at(1000.0 + second, refaults=50_000 * (len(taken) - (not is_back)))
        seen = replace(observation(now, idleness.SPARE), ended_bytes=100 * MIB)
        if taken and taken[-1] == second - 1:
            seen = replace(seen, outcome=StepOutcome(act.ReclaimEnded.kind, ok=True))
        actions, state = adaptive.decide(seen, state, settings, replace(ABLE, reporting=False))
        taken += [second for one in actions if isinstance(one, act.ReclaimEnded)]
    pauses = [b - a for a, b in pairwise(taken)]
    assert len(pauses) >= 2
    assert pauses == sorted(pauses)
    assert pauses[0] >= 60
