"""The fallbacks' rules: whatever a guest says, its headroom and its floor stay."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from giveback.accounting.usage import GuestSnapshot, GuestSource
from giveback.manager.devices import rules
from giveback.manager.devices.rules import Numbers, Watch
from giveback.vmm.base import Answer, BalloonStatistics, Capabilities, VmDescription, VmState

MIB, GIB = 1 << 20, 1 << 30
VM = VmDescription("qemu", "one", 7, GIB, (), Capabilities())
amounts = st.integers(0, 1 << 44)
times = st.floats(0, 1e9)


def numbers(
    stamp_s: float = 100, available: int = 600 * MIB, total: int = GIB, **more: int
) -> Numbers:
    return Numbers(stamp_s, total, available, **more)


def fresh(now_s: float = 100) -> Watch:
    """A guest whose numbers have moved, now."""
    watch = rules.noted(Watch(), numbers(now_s - 5), now_s - 5)
    return rules.noted(watch, numbers(now_s), now_s)


@given(
    amounts, amounts, amounts, amounts, amounts, amounts, st.sampled_from([MIB, 2 * MIB, 64 * MIB])
)
def test_a_step_leaves_headroom_and_floor_and_is_small(
    total: int, available: int, size: int, goal: int, floor: int, most: int, granule: int
) -> None:
    assume(available <= total)
    said = numbers(available=available, total=total)
    step = rules.step_bytes(
        said, size_bytes=size, goal_bytes=goal, floor_bytes=floor, most_bytes=most,
        granule_bytes=granule,
    )  # fmt: skip
    assert step == 0 or step >= rules.STEP_LEAST_BYTES
    assert step % granule == 0
    if step:
        assert step <= min(goal, most, size // 16, 256 * MIB)
        assert size - step >= floor
        assert available - step >= rules.headroom_bytes(total) * 1.5 - 1


@given(times, st.floats(0, 1e6), amounts, amounts)
def test_a_guest_whose_numbers_stand_still_is_never_stepped(
    began_s: float, later_s: float, total: int, available: int
) -> None:
    watch = Watch()
    for share in (0, 0.3, 0.7, 1):
        now_s = began_s + share * later_s
        watch = rules.noted(watch, numbers(began_s, min(available, total), total), now_s)
        assert rules.not_yet(watch, now_s)


@given(st.floats(0, 1e5))
def test_a_lease_is_released_once_the_guests_numbers_freeze(frozen_s: float) -> None:
    watch = rules.wanted(fresh(100), 100 + frozen_s)
    why = rules.must_release(watch, 90, 100 + frozen_s)
    assert bool(why) == (frozen_s > rules.STALE_S)


@given(st.integers(0, GIB))
def test_pressure_and_room_never_meet(available: int) -> None:
    """A guest that is given memory back is never one from which a step could be taken."""
    said = numbers(available=available)
    step = rules.step_bytes(
        said, size_bytes=GIB, goal_bytes=GIB, floor_bytes=0, most_bytes=GIB, granule_bytes=MIB
    )
    assert not (step and rules.pressed(Watch(numbers=said)))
    # Nor does the step itself bring it there.
    after = replace(said, available_bytes=available - step)
    assert not (step and rules.pressed(Watch(numbers=after)))


def test_swapping_in_and_faulting_are_pressure_and_are_remembered() -> None:
    for before, after in (
        ({"swap_in_bytes": 0}, {"swap_in_bytes": 10 * MIB}),
        ({"major_faults": 10}, {"major_faults": 1000}),
    ):
        watch = rules.noted(Watch(), numbers(100, **before), 100)
        watch = rules.noted(watch, numbers(105, **after), 105)
        assert rules.pressed(watch)
        assert rules.must_release(watch, 104, 105)
        calm = rules.noted(watch, numbers(110, **after), 110)
        assert not rules.pressed(calm)
        assert "in the last minute" in rules.not_yet(calm, 110)
        later = rules.noted(calm, numbers(171, **after), 171)
        assert not rules.not_yet(later, 171)


@given(st.floats(-1e9, 1e9), st.integers(0, 1 << 56), st.integers(0, 1 << 56))
def test_counters_that_fall_or_leap_never_fail(moved_s: float, first: int, second: int) -> None:
    watch = rules.noted(Watch(), numbers(100, swap_in_bytes=first, major_faults=second), 100)
    watch = rules.noted(watch, numbers(100 + moved_s, swap_in_bytes=second), 105)
    watch = rules.noted(watch, numbers(100, swap_in_bytes=first, major_faults=first), 110)
    assert math.isfinite(watch.swap_in_bytes_per_s)
    assert watch.major_faults_per_s >= 0


def test_a_step_waits_for_what_the_guest_says_of_the_last() -> None:
    watch = rules.stepped(fresh(100), 100)
    assert "last step" in rules.not_yet(watch, 101)
    watch = rules.noted(watch, numbers(105), 105)
    assert rules.not_yet(watch, 105) == ""
    assert not rules.is_stuck(watch, 120)
    assert rules.is_stuck(watch, 131)


def test_a_wall_clock_that_jumps_is_only_movement() -> None:
    watch = fresh(100)
    for stamp_s in (1e9, 50.0, 2e9):
        watch = rules.noted(watch, numbers(stamp_s), 105)
        assert rules.not_yet(watch, 105) == ""
        assert rules.must_release(rules.wanted(watch, 105), 100, 105) == ""


def test_a_lease_that_no_request_needs_any_more_is_released() -> None:
    watch = rules.wanted(fresh(100), 100)
    for now_s in range(105, 225, 5):
        watch = rules.noted(watch, numbers(now_s), now_s)
        assert bool(rules.must_release(watch, 100, now_s)) == (now_s > 220)


def test_who_is_barred() -> None:
    assert rules.barred(VM, VmState()) == ""
    assert "paused" in rules.barred(VM, VmState(running=False))
    reports = VmState(reporting_negotiated=Answer.YES)
    assert "reports" in rules.barred(VM, reports)
    assert rules.barred(VM, reports, although_reports=True) == ""
    blocked = replace(VM, blockers=("VFIO",))
    assert "VFIO" in rules.barred(blocked, VmState(), although_reports=True)
    assert "COLO" in rules.barred(VM, VmState(blockers=("COLO",)))


def test_whose_numbers_count() -> None:
    said = BalloonStatistics(1000.0, GIB, 0, 500 * MIB)
    agent = GuestSnapshot(GuestSource.AGENT, 2.0, total_bytes=GIB, available_bytes=400 * MIB)
    by_balloon = rules.numbers_of(VmState(statistics=said), agent, 50.0, 1005.0)
    assert by_balloon is not None
    assert (by_balloon.available_bytes, by_balloon.stamp_s) == (500 * MIB, 1000)
    # Frozen ones give way to the agent's, and stand where there is no other.
    by_agent = rules.numbers_of(VmState(statistics=said), agent, 50.0, 1100.0)
    assert by_agent is not None
    assert (by_agent.available_bytes, by_agent.stamp_s) == (400 * MIB, 48)
    assert rules.numbers_of(VmState(statistics=said), GuestSnapshot(), 50.0, 1100.0) == by_balloon
    # Firecracker's carry no time: nothing shows that they moved.
    timeless = VmState(statistics=BalloonStatistics(None, GIB, 0, 500 * MIB))
    assert rules.numbers_of(timeless, GuestSnapshot(), 50.0, 1000.0) is None
    # A guest that has more available than it has at all is not believed.
    lie = VmState(statistics=BalloonStatistics(1000.0, MIB, 0, GIB))
    assert rules.numbers_of(lie, GuestSnapshot(), 50.0, 1000.0) is None
