"""One VM's request: its asks, the bytes expected, and the result."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from manager_hosts import AMOUNTS, MIB

from giveback.manager.decide.delivery import Asked
from giveback.manager.decide.promises import GRACE_S, Trust
from giveback.manager.decide.request import ReclaimRequest
from giveback.manager.model import ActionKind, ManagerAction, UrgencyBy

ASK = ManagerAction(1, 0.0, "qemu:web:1", ActionKind.ASK, 2, 100 * MIB, "cold")
STEP = replace(ASK, id=2, kind=ActionKind.BALLOON, expected_bytes=64 * MIB)
OF_ARBITER = Asked(1.0, 1, 50 * MIB, 900 * MIB)
TIMES = st.floats(0, 1000)


def test_a_reclaim_that_ends_leaves_the_arbiters_ask() -> None:
    request = ReclaimRequest()
    request.ask_by_arbiter(OF_ARBITER)
    request.ask_by_reclaim(Asked(5.0, 2, 80 * MIB, 900 * MIB), until_s=20.0)
    request.expect(ASK, 1000 * MIB, 5.0)
    assert (request.device_bytes, request.of_reclaim(19.0)) == (80 * MIB, 2)
    request.end_reclaim()
    assert (request.reclaim, request.device_bytes, request.of_reclaim(6.0)) == (None, 0, None)
    assert request.arbiter == OF_ARBITER
    # The arbiter still waits for it, and what it asked for is still judged.
    assert request.reclaim_at_s == 5.0
    assert request.promise is not None


def test_the_rest_of_a_goal_that_is_asked_for_again_is_the_same_goal() -> None:
    request = ReclaimRequest()
    numbers = []
    for ask in (
        Asked(5.0, 1, 80 * MIB, 900 * MIB),
        Asked(8.0, 2, 60 * MIB, 880 * MIB),
        Asked(10.0, 3, 60 * MIB, 880 * MIB),
        Asked(11.0, 3, 70 * MIB, 880 * MIB),  # More than is left: others did not give it.
        Asked(11.0 + 5.0, 3, 70 * MIB, 880 * MIB),  # Nothing is on its way any more.
    ):
        request.ask_by_reclaim(ask, until_s=40.0)
        numbers.append(request.goal_number)
    assert numbers == [5000, 5000, 5000, 11000, 16000]


@given(TIMES, TIMES, st.integers(0, 3))
def test_a_manual_urgency_holds_for_its_time_only(
    until_s: float, now_s: float, urgency: int
) -> None:
    request = ReclaimRequest()
    assert request.manual(now_s) is None
    request.set_manual(urgency, until_s)
    assert request.manual(now_s) == (urgency if now_s < until_s else None)


@given(TIMES, TIMES, TIMES, st.integers(0, 3))
def test_a_manual_urgency_and_that_of_a_reclaim_are_two(
    until_s: float, manual_until_s: float, now_s: float, urgency: int
) -> None:
    request = ReclaimRequest()
    request.set_manual(urgency, manual_until_s)
    request.ask_by_reclaim(OF_ARBITER, until_s)
    assert request.of_reclaim(now_s) == (OF_ARBITER.urgency if now_s < until_s else None)
    is_reclaims = now_s < until_s and now_s >= manual_until_s
    # Nothing has come yet: all that was asked for is still wanted, unless another's urgency holds.
    wanted = request.goal_bytes(OF_ARBITER.resident_bytes, now_s)
    assert wanted == (OF_ARBITER.goal_bytes if is_reclaims else None)
    setter = UrgencyBy.MANUAL if now_s < manual_until_s else UrgencyBy.HOST
    assert request.set_by(now_s) == (UrgencyBy.RECLAIM if is_reclaims else setter)
    request.end_reclaim()
    assert request.manual(now_s) == (urgency if now_s < manual_until_s else None)
    assert request.goal_bytes(0, now_s) is None


def test_a_reclaim_closes_what_was_expected_before_it() -> None:
    request = ReclaimRequest()
    assert request.supersede(0) is None
    request.expect(ASK, 1000 * MIB, 0.0)
    assert request.supersede(940 * MIB) == (ASK, 60 * MIB)
    assert request.promise is None
    # It is not judged: its time was not over.
    assert (request.trust, request.is_judged) == (Trust(), False)


@given(TIMES, TIMES, AMOUNTS)
def test_a_calm_host_ends_what_a_device_may_take_but_for_a_reclaim(
    until_s: float, now_s: float, goal_bytes: int
) -> None:
    request = ReclaimRequest()
    request.allow_device(goal_bytes)
    request.calm(now_s)
    assert request.device_bytes == 0
    request.ask_by_reclaim(replace(OF_ARBITER, goal_bytes=goal_bytes), until_s)
    request.calm(now_s)
    assert request.device_bytes == (goal_bytes if now_s < until_s else 0)


@given(AMOUNTS, st.lists(AMOUNTS, max_size=8))
def test_a_device_takes_no_more_than_it_may(goal_bytes: int, steps: list[int]) -> None:
    request = ReclaimRequest()
    request.allow_device(goal_bytes)
    for taken_bytes in steps:
        before = request.device_bytes
        request.take_by_device(taken_bytes)
        assert 0 <= request.device_bytes <= before
    assert request.device_bytes == max(0, goal_bytes - sum(steps))


def test_more_asks_raise_one_promise_and_another_devices_step_does_not() -> None:
    request = ReclaimRequest()
    assert request.expect_more(10 * MIB, 1000 * MIB, 0.0) is None
    assert request.expect_step(STEP, 0.0) is None
    request.expect(ASK, 1000 * MIB, 0.0)
    # 40 MiB have come, and 100 more are asked for.
    raised = request.expect_more(100 * MIB, 960 * MIB, 1.0, 3)
    assert raised is not None
    assert (raised.id, raised.expected_bytes) == (ASK.id, 140 * MIB)
    assert raised.urgency == 3
    assert request.expect_step(STEP, 2.0) is None
    request.expect(STEP, 1000 * MIB, 3.0)
    added = request.expect_step(replace(STEP, id=9), 4.0)
    assert added is not None
    assert (added.id, added.expected_bytes) == (STEP.id, 128 * MIB)


@given(st.integers(0, 1 << 40))
def test_what_is_expected_is_judged_once(resident_bytes: int) -> None:
    request = ReclaimRequest()
    request.expect(ASK, 1000 * MIB, 0.0)
    early = request.judge(resident_bytes, 1.0)
    assert (early is not None) == (resident_bytes <= 900 * MIB)
    late = request.judge(resident_bytes, GRACE_S)
    assert (early or late) == (ASK, 1000 * MIB - resident_bytes)
    assert request.judge(resident_bytes, GRACE_S) is None
    assert request.promise is None
    assert (request.trust.reliability == 1.0) == (resident_bytes <= 900 * MIB)
    assert request.trust.proven_bytes == min(100 * MIB, max(0, 1000 * MIB - resident_bytes))
