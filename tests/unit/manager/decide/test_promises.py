"""Expected bytes compared with returned bytes, and how far a VM is believed the next time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback.manager.decide import promises
from giveback.manager.decide.promises import Trust
from giveback.manager.model import ActionKind, ManagerAction

MIB = 1 << 20


def action(expected_bytes: int) -> ManagerAction:
    return ManagerAction(1, 0.0, "qemu:web:1", ActionKind.ASK, 2, expected_bytes, "")


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(-(1 << 40), 1 << 40)), max_size=50))
def test_reliability_stays_between_0_and_1(judged: list[tuple[int, int]]) -> None:
    trust = Trust()
    for expected, measured in judged:
        before, trust = trust, promises.judged(trust, expected, measured)
        assert 0 <= trust.reliability <= 1
        if measured >= expected:
            assert trust.reliability >= before.reliability
            assert trust.failures == 0
        if measured <= 0:
            assert trust.reliability <= before.reliability
            assert trust.failures == before.failures + 1


def test_one_that_never_delivers_is_short_and_may_become_good_again() -> None:
    trust = Trust()
    for _ in range(2):
        trust = promises.judged(trust, MIB, 0)
    assert promises.is_short(trust)
    for _ in range(4):
        trust = promises.judged(trust, MIB, 2 * MIB)
    assert not promises.is_short(trust)
    assert promises.judged(trust, 0, 5) == trust


def test_a_promise_is_judged_when_it_is_kept_or_its_time_is_over() -> None:
    promise = promises.promised(action(100), 1000, 10.0)
    assert not promises.is_due(promise, 950, 11.0)
    assert promises.is_due(promise, 900, 11.0)
    assert promises.is_due(promise, 1100, 10.0 + promises.GRACE_S)


def test_a_promise_that_is_raised_again_and_again_is_judged_at_last() -> None:
    promise = promises.promised(action(100), 1000, 0.0)
    for second in range(1, 200):
        promise = promises.raised(promise, 50, 990, float(second))
    assert promise.action.expected_bytes == 100
    assert promise.due_s <= 3 * promises.GRACE_S
    assert promises.raised(promise, 300, 990, 200.0).action.expected_bytes == 310


def test_the_verdict_says_what_came_and_why_not_more() -> None:
    assert promises.verdict(100 * MIB, 90 * MIB, "it is off") == ""
    assert promises.verdict(100 * MIB, 0, "it is off") == "0 KiB of 100 MiB came: it is off"
    assert promises.verdict(100 * MIB, -3 * MIB, "it is off") == "it grew by 3 MiB: it is off"


def test_an_agent_that_did_its_task_is_not_called_short() -> None:
    trust = Trust()
    for _ in range(20):
        trust = promises.judged(trust, MIB, 0, is_excused=True)
        assert not promises.is_short(trust)
    # Less is expected of it all the same.
    assert trust.reliability == promises.SHORT_BELOW
    unexcused = promises.judged(promises.judged(trust, MIB, 0), MIB, 0)
    assert promises.is_short(promises.judged(unexcused, MIB, 0, is_excused=True))


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(-(1 << 40), 1 << 40)), max_size=50))
def test_no_more_is_proven_than_came_at_once_and_a_miss_leaves_only_what_came(
    judged: list[tuple[int, int]],
) -> None:
    trust, most = Trust(), 0
    for expected, measured in judged:
        trust = promises.judged(trust, expected, measured)
        most = max(most, min(expected, measured))
        assert 0 <= trust.proven_bytes <= max(0, most)
        if measured < expected // 2:
            assert trust.proven_bytes == max(0, measured)
