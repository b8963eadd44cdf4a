"""The idleness detector: when the agent may act."""

from __future__ import annotations

from agent_guests import cpu
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy.activity import idleness
from giveback_agent.policy.activity.idleness import Activity, Stalls


def course(
    looks: list[tuple[float, int]], own_cpu_s: float = 0.0, stall_us: int | None = None
) -> Activity:
    """Judge samples of a guest with 2 CPUs: each (seconds since the last, busy ticks in it)."""
    state = idleness.judge(Activity(), 0.0, cpu(0, 0), 0.0, Stalls(), 20, 3, 100)
    now_s, busy, stalls = 0.0, 0, 0
    for seconds, ticks in looks:
        now_s += seconds
        busy += ticks
        stalls += stall_us or 0
        told = Stalls() if stall_us is None else Stalls(stalls, 0)
        state = idleness.judge(state, now_s, cpu(busy, 0), own_cpu_s, told, 20, 3, 100)
    return state


def test_idle_takes_the_whole_window() -> None:
    assert course([(1.0, 0)] * 2).level == idleness.SPARE
    assert course([(1.0, 0)] * 3).level == idleness.IDLE


def test_an_editor_at_ten_percent_is_idle_and_a_compiler_is_not() -> None:
    assert course([(1.0, 20)] * 5).level == idleness.IDLE
    assert course([(1.0, 190)] * 5).level == idleness.BUSY
    assert course([(1.0, 80)] * 5).level == idleness.SPARE


def test_the_agents_own_cpu_is_not_the_guests() -> None:
    assert course([(1.0, 100)] * 5, own_cpu_s=1.0).level == idleness.IDLE


def test_a_guest_that_stalls_for_memory_is_busy() -> None:
    assert course([(1.0, 0)] * 5, stall_us=100_000).level == idleness.BUSY


def test_one_busy_interval_starts_the_window_again() -> None:
    assert course([(1.0, 0)] * 5 + [(1.0, 200)]).level == idleness.BUSY
    assert course([(1.0, 0)] * 5 + [(1.0, 200), (1.0, 0)]).level == idleness.SPARE


def test_a_workload_that_has_just_begun_is_not_hidden_by_a_long_idle_interval() -> None:
    """13 % of ten seconds may be two CPUs for the last 1.3 s: a pass once began in such a workload."""
    calm = [(1.0, 0)] * 5
    assert course([*calm, (10.0, 100)]).level == idleness.IDLE
    begun = course([*calm, (10.0, 260)])
    assert begun.level == idleness.SPARE
    assert not idleness.has_lasting_spare_cpu(begun)
    assert course([*calm, (10.0, 260), (1.0, 200)]).level == idleness.BUSY
    # It was a burst, or an editor that always uses that much.
    assert course([*calm, (10.0, 260), (1.0, 30), (1.0, 0), (1.0, 30)]).level == idleness.IDLE


def test_the_work_goes_on_through_pauses_and_ends_with_a_long_one() -> None:
    work = [(1.0, 150)] * 40
    state = course([*work, *[(1.0, 0)] * 3])
    assert (state.work_since_s, state.idle_since_s) == (0.0, 40.0)
    assert idleness.only_pauses(state, 43.0)
    assert not idleness.only_pauses(state, 44.0)
    again = course([*work, *[(1.0, 0)] * 10, *work])
    assert again.work_since_s == 0.0
    assert not idleness.only_pauses(again, 90.0)
    assert course([*work, *[(1.0, 0)] * 15]).work_since_s is None
    anew = course([*work, *[(1.0, 0)] * 15, (1.0, 150)])
    assert anew.work_since_s == 55.0


def test_a_pause_is_never_longer_than_its_limit() -> None:
    state = course([(1.0, 150)] * 1000 + [(1.0, 0)] * 14)
    assert idleness.only_pauses(state, 1014.0)
    assert not idleness.only_pauses(state, 1015.0)


def test_a_clock_that_jumps_back_starts_again() -> None:
    state = course([(1.0, 0)] * 5)
    assert idleness.judge(state, 1.0, cpu(0, 0), 0.0, Stalls(), 20, 3, 100).level == idleness.BUSY


def test_only_user_time_is_work_while_the_kernel_works_for_us() -> None:
    state = idleness.judge(Activity(), 0.0, cpu(0, 0), 0.0, Stalls(), 20, 1, 100)
    kernel_busy = cpu(0, 0).__class__(0, 0, 190, 0, 0, 0, 0, 0, 2)
    assert (
        idleness.judge(state, 1.0, kernel_busy, 0.0, Stalls(), 20, 1, 100, True).level
        == idleness.IDLE
    )
    assert idleness.judge(state, 1.0, kernel_busy, 0.0, Stalls(), 20, 1, 100).level == idleness.BUSY


@given(
    st.lists(st.tuples(st.floats(-5, 60), st.integers(-500, 5000)), max_size=30),
    st.floats(0, 100),
    st.one_of(st.none(), st.integers(-(10**6), 10**7)),
)
def test_no_course_of_counters_breaks_it(
    looks: list[tuple[float, int]], own_cpu_s: float, stall_us: int | None
) -> None:
    state = course(looks, own_cpu_s, stall_us)
    assert state.level in (idleness.IDLE, idleness.SPARE, idleness.BUSY)
    assert 0 <= state.busy_percent <= 100
    assert state.work_cpu_s >= 0


def test_stalls_for_memory_are_told_apart_from_work() -> None:
    state = idleness.Activity()
    for second, stalled_us in ((0, 0), (1, 10_000), (2, 60_000)):
        state = idleness.judge(
            state, float(second), cpu(0, second * 100), 0.0, Stalls(stalled_us, 0), 20.0, 3.0, 100
        )
        assert state.short_of_memory is (second == 2)


def test_a_guest_is_quiet_where_it_is_idle_and_has_done_next_to_nothing() -> None:
    idle = course([(1.0, 0)] * 5)
    assert idleness.is_quiet(idle, cpu(3, 0), 0.0, 100)
    assert not idleness.is_quiet(idle, cpu(9, 0), 0.0, 100)
    assert idleness.is_quiet(idle, cpu(9, 0), 0.07, 100), "the agent's own does not count"
    assert not idleness.is_quiet(course([(1.0, 80)] * 5), cpu(400, 0), 0.0, 100)
    assert not idleness.is_quiet(Activity(), cpu(0, 0), 0.0, 100)


def test_cpu_to_spare_is_less_than_ninety_percent_for_ten_seconds() -> None:
    assert idleness.has_lasting_spare_cpu(course([(2.0, 280)] * 6)), "70 %"
    assert not idleness.has_lasting_spare_cpu(course([(2.0, 280)] * 3))
    assert not idleness.has_lasting_spare_cpu(course([(2.0, 280)] * 5 + [(2.0, 370)]))
    assert not idleness.has_lasting_spare_cpu(course([(2.0, 280)] * 6, stall_us=100_000))
    assert not idleness.has_lasting_spare_cpu(course([(1.0, 0)] * 5 + [(2.0, 280)] * 3)), (
        "work that began"
    )
