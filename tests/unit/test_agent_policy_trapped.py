"""What the adaptive policy does about memory that is free in small pieces."""

from __future__ import annotations

import pytest
from agent_guests import ABLE, MIB, observation, snapshot

from giveback_agent import actions as act
from giveback_agent import gate, policy
from giveback_agent.actions import Outcome
from giveback_agent.deep_report import Hold
from giveback_agent.policy import PolicyState
from giveback_agent.record import replace
from giveback_agent.settings import Settings

SETTINGS = Settings()
USED_BYTES = policy._used_bytes(snapshot(0.0))


def test_the_order_is_held_until_the_kernel_falls_silent_and_no_longer() -> None:
    held = replace(PolicyState(), in_pass=True, hold=Hold(100.0, 7, 110.0, USED_BYTES))
    seen = replace(observation(snapshot(114.0), lowered=True), reports=7)
    actions, state = policy.decide(seen, held, SETTINGS, ABLE)
    assert actions == ()
    assert state.in_pass
    seen = replace(observation(snapshot(115.0), lowered=True), reports=7)
    actions, state = policy.decide(seen, state, SETTINGS, ABLE)
    assert [action.kind for action in actions] == [act.RESTORE, act.PASS_END]
    assert not state.in_pass


def test_an_order_that_could_not_be_lowered_is_not_waited_for() -> None:
    held = replace(PolicyState(), in_pass=True, hold=Hold.begin(100.0, None, USED_BYTES))
    actions, _ = policy.decide(observation(snapshot(101.0)), held, SETTINGS, ABLE)
    assert actions[-1].kind == act.PASS_END


@pytest.mark.parametrize(
    ("settable", "reported", "trapped", "wanted"),
    [
        (True, None, 300, True),
        (True, None, 40, False),
        (True, 250, 300, False),
        (True, 250, 350, True),
        (True, 400, 350, False),
        (False, None, 40, True),
        (False, 250, 300, True),
    ],
)
def test_what_small_pieces_can_be_reported_is_compacted_once_and_if_it_is_much(
    settable: bool, reported: int | None, trapped: int, wanted: bool
) -> None:
    """A later compaction would move pages into memory that the host has already taken back."""
    last = None if reported is None else snapshot(0.0, trapped=reported)
    can = replace(ABLE, order_settable=settable, cold_method="none", drain=False)
    state = PolicyState(in_pass=True, todo=(act.COMPACT, act.LOWER), after_pass=last)
    seen = observation(snapshot(100.0, trapped=trapped))
    actions, _ = policy.decide(seen, state, SETTINGS, can)
    assert (actions[0].kind == act.COMPACT) == wanted
    if settable and not wanted:
        assert actions[0].kind == act.LOWER


@pytest.mark.parametrize(
    ("levels", "anon", "urgency", "by_hand", "end"),
    [
        ((gate.SLACK, gate.SLACK), 0, 1, False, "work came back"),
        ((gate.SLACK, gate.IDLE, gate.SLACK), 0, 1, False, None),
        ((gate.IDLE, gate.IDLE), 100, 1, False, "work came back"),
        ((gate.IDLE, gate.IDLE), 50, 1, False, None),
        ((gate.SLACK, gate.SLACK), 100, 2, False, None),
        ((gate.SLACK, gate.SLACK), 100, 1, True, None),
    ],
)
def test_work_that_leaves_most_of_the_cpu_idle_gets_the_order_back_all_the_same(
    levels: tuple[str, ...], anon: int, urgency: int, by_hand: bool, end: str | None
) -> None:
    """Hogs that mostly fault pages in once ran with a lowered order for a minute."""
    hold = Hold.begin(100.0, 0, USED_BYTES)
    state = PolicyState(in_pass=True, by_hand=by_hand, urgency=urgency, hold=hold)
    ends = []
    for second, level in enumerate(levels, start=1):
        now = snapshot(100.0 + second)
        now = replace(now, meminfo=replace(now.meminfo, anon_pages_bytes=anon * MIB))
        seen = replace(observation(now, level, urgency, lowered=True), reports=second)
        actions, state = policy.decide(seen, state, SETTINGS, ABLE)
        if not state.in_pass:
            assert [action.kind for action in actions] == [act.RESTORE, act.PASS_END]
            ends.append(actions[-1].why)
            break
    assert ends == ([] if end is None else [end])


def test_what_a_compaction_left_in_a_pass_cut_short_is_not_compacted_again() -> None:
    state = PolicyState(in_pass=True, before_compact_trapped_bytes=300 * MIB)
    seen = observation(snapshot(100.0, trapped=200), outcome=Outcome(act.COMPACT, ok=True))
    _, state = policy.decide(seen, state, SETTINGS, ABLE)
    _, state = policy.decide(observation(snapshot(101.0), gate.BUSY), state, SETTINGS, ABLE)
    for trapped, wanted in ((250, False), (300, True)):
        again = replace(state, in_pass=True, todo=(act.COMPACT,))
        seen = observation(snapshot(200.0, trapped=trapped))
        actions, _ = policy.decide(seen, again, SETTINGS, ABLE)
        assert (actions[0].kind == act.COMPACT) == wanted
