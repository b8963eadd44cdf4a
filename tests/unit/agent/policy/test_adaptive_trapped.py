"""The adaptive policy and memory in small free blocks."""

from __future__ import annotations

import pytest
from agent_guests import ABLE, MIB, observation, snapshot

from giveback_agent.policy import actions as act
from giveback_agent.policy import adaptive, compaction
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.adaptive import PolicyState
from giveback_agent.policy.compaction import Compacting
from giveback_agent.policy.observation import (
    StepOutcome,
)
from giveback_agent.policy.release_pass import Pass
from giveback_agent.policy.report_hold import Hold
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.buddyinfo import BuddyInfo, ZoneBlocks
from giveback_kernel.record import replace

SETTINGS = AgentSettings()
USED_BYTES = snapshot(0.0).used_bytes


def test_the_order_is_held_until_the_kernel_falls_silent_and_no_longer() -> None:
    held = PolicyState(current=Pass(hold=Hold(100.0, 7, 110.0, USED_BYTES)))
    seen = replace(observation(snapshot(114.0), lowered=True), reports=7)
    actions, state = adaptive.decide(seen, held, SETTINGS, ABLE)
    assert actions == ()
    assert state.in_pass
    seen = replace(observation(snapshot(115.0), lowered=True), reports=7)
    actions, state = adaptive.decide(seen, state, SETTINGS, ABLE)
    assert [type(action) for action in actions] == [act.RestoreOrder, act.EndPass]
    assert not state.in_pass


def test_an_order_that_could_not_be_lowered_is_not_waited_for() -> None:
    held = PolicyState(current=Pass(hold=Hold.begin(100.0, None, USED_BYTES)))
    actions, _ = adaptive.decide(observation(snapshot(101.0)), held, SETTINGS, ABLE)
    assert isinstance(actions[-1], act.EndPass)


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
    can = replace(ABLE, order_settable=settable, cold_method="none", drain=False)
    state = PolicyState()
    if reported is not None:
        state = replace(state, current=Pass(hold=Hold.begin(-60.0, 0, USED_BYTES)))
        seen = replace(observation(snapshot(0.0, trapped=reported), lowered=True), reports=0)
        _, state = adaptive.decide(seen, state, SETTINGS, can)
    state = replace(state, current=Pass(steps=(act.Compact, act.LowerOrder)))
    seen = observation(snapshot(100.0, trapped=trapped))
    actions, _ = adaptive.decide(seen, state, SETTINGS, can)
    assert (isinstance(actions[0], act.Compact)) == wanted
    if settable and not wanted:
        assert isinstance(actions[0], act.LowerOrder)


@pytest.mark.parametrize(
    ("levels", "anon", "urgency", "by_hand", "end"),
    [
        ((idleness.SPARE, idleness.SPARE), 0, 1, False, "the guest got busy"),
        ((idleness.SPARE, idleness.IDLE, idleness.SPARE), 0, 1, False, None),
        ((idleness.IDLE, idleness.IDLE), 100, 1, False, "the guest got busy"),
        ((idleness.IDLE, idleness.IDLE), 50, 1, False, None),
        ((idleness.IDLE, idleness.IDLE), -300, 1, False, None),
        ((idleness.SPARE, idleness.SPARE), 100, 2, False, None),
        ((idleness.SPARE, idleness.SPARE), 100, 1, True, None),
    ],
)
def test_work_that_leaves_most_of_the_cpu_idle_gets_the_order_back_all_the_same(
    levels: tuple[str, ...], anon: int, urgency: int, by_hand: bool, end: str | None
) -> None:
    """A workload that mostly faults pages in once ran with a lowered order for a minute."""
    hold = Hold.begin(100.0, 0, USED_BYTES + 300 * MIB)
    state = PolicyState(current=Pass(urgency, by_hand, hold=hold))
    ends = []
    for second, level in enumerate(levels, start=1):
        now = snapshot(100.0 + second)
        now = replace(now, meminfo=replace(now.meminfo, anon_pages_bytes=(anon + 300) * MIB))
        seen = replace(observation(now, level, urgency, lowered=True), reports=second)
        actions, state = adaptive.decide(seen, state, SETTINGS, ABLE)
        if not state.in_pass:
            assert [type(action) for action in actions] == [act.RestoreOrder, act.EndPass]
            ends.append(actions[-1].why)
            break
    assert ends == ([] if end is None else [end])


def test_what_a_compaction_left_in_a_pass_cut_short_is_not_compacted_again() -> None:
    begun = Compacting(before_bytes=300 * MIB)
    state = PolicyState(current=Pass(steps=(act.LowerOrder,)), compaction=begun)
    seen = observation(snapshot(100.0, trapped=200), outcome=StepOutcome(act.Compact.kind, ok=True))
    _, state = adaptive.decide(seen, state, SETTINGS, ABLE)
    _, state = adaptive.decide(observation(snapshot(101.0), idleness.BUSY), state, SETTINGS, ABLE)
    for trapped, wanted in ((250, False), (300, True)):
        again = replace(state, current=Pass(steps=(act.Compact,)))
        seen = observation(snapshot(200.0, trapped=trapped))
        actions, _ = adaptive.decide(seen, again, SETTINGS, ABLE)
        assert (isinstance(actions[0], act.Compact)) == wanted


def test_a_compaction_that_was_given_up_leaves_nothing_known() -> None:
    state = PolicyState(current=Pass(), compaction=Compacting(before_bytes=300 * MIB))
    seen = observation(
        snapshot(100.0, trapped=300), outcome=StepOutcome(act.Compact.kind, ok=False)
    )
    _, state = adaptive.decide(seen, state, SETTINGS, ABLE)
    assert state.compaction.known_bytes == 0
    assert state.compaction.after_s > 100.0


def test_what_could_not_be_reported_is_compacted() -> None:
    """If the order could not be lowered, the pass ends, and no memory has gone to the host."""
    state = PolicyState(current=Pass(hold=Hold.begin(0.0, 0, USED_BYTES)))
    _, state = adaptive.decide(observation(snapshot(60.0)), state, SETTINGS, ABLE)
    assert not state.in_pass
    again = replace(state, current=Pass(steps=(act.Compact,)))
    actions, _ = adaptive.decide(observation(snapshot(100.0)), again, SETTINGS, ABLE)
    assert isinstance(actions[0], act.Compact)


def test_what_only_compaction_returns_is_compacted_as_before() -> None:
    settings = replace(SETTINGS, lowest_report_order=3)
    known = Compacting(known=snapshot(0.0, trapped=300))
    state = PolicyState(current=Pass(steps=(act.Compact,)), compaction=known)
    actions, _ = adaptive.decide(observation(snapshot(100.0)), state, settings, ABLE)
    assert isinstance(actions[0], act.Compact)


def test_after_a_hold_cut_short_the_rest_is_reported_once_the_guest_is_quiet() -> None:
    """400 MiB had been reported, were used and freed by a workload, and are trapped and resident again."""
    last = snapshot(0.0, cache=0, trapped=400)
    hold = Hold.begin(100.0, 0, last.used_bytes)
    state = PolicyState(current=Pass(hold=hold), after_pass=last, after_pass_work_cpu_s=0.0)
    now = snapshot(102.0, cache=0, trapped=400)
    grown = replace(now, meminfo=replace(now.meminfo, anon_pages_bytes=100 * MIB))
    seen = replace(observation(grown, lowered=True, work_cpu_s=10.0), reports=1)
    actions, state = adaptive.decide(seen, state, SETTINGS, ABLE)
    assert actions[-1].why == "the guest got busy"
    # It has only waited for the kernel: the rest is no longer than after a complete pass.
    assert state.rest_until_s == 102.0 + adaptive.REST_S
    begun = []
    for second in range(103, 200):
        now = snapshot(float(second), cache=0, trapped=400)
        actions, state = adaptive.decide(observation(now, work_cpu_s=10.0), state, SETTINGS, ABLE)
        begun += [action for action in actions if isinstance(action, act.BeginPass)]
        if begun:
            break
    assert begun


def test_a_pass_whose_steps_were_cut_short_rests_longer() -> None:
    state = PolicyState(current=Pass(steps=(act.Compact,)))
    seen = observation(snapshot(102.0), idleness.BUSY)
    _, state = adaptive.decide(seen, state, SETTINGS, ABLE)
    assert state.rest_until_s == 102.0 + adaptive.CUT_SHORT_REST_S > 102.0 + adaptive.REST_S


def test_one_busy_sample_that_is_seen_twice_counts_once() -> None:
    state = PolicyState(current=Pass(hold=Hold.begin(100.0, 0, USED_BYTES)))
    seen = replace(observation(snapshot(101.0), idleness.SPARE, lowered=True), reports=1)
    for now_s, judged_s, in_pass in (
        (101.0, 101.0, True),
        (101.2, 101.0, True),
        (102.0, 102.0, False),
    ):
        again = replace(
            seen, snapshot=snapshot(now_s), activity=replace(seen.activity, at_s=judged_s)
        )
        _, state = adaptive.decide(again, state, SETTINGS, ABLE)
        assert state.in_pass is in_pass


def test_numa_nodes_whose_pieces_were_reported_are_left_alone() -> None:
    def blocks(first: int, second: int) -> BuddyInfo:
        of_nodes = (
            ZoneBlocks(0, "Normal", (0, 0, 0, first, 0, 0, 0, 0, 0, 0, 100)),
            ZoneBlocks(1, "Normal", (0, 0, 0, second, 0, 0, 0, 0, 0, 0, 100)),
        )
        return BuddyInfo(of_nodes, 4096)

    before = replace(snapshot(0.0, trapped=160), buddy=blocks(5000, 0))
    now = replace(snapshot(100.0, trapped=320), buddy=blocks(5000, 5000))
    assert compaction.worthy_nodes(now, Compacting(known=before)) == (1,)
    assert compaction.worthy_nodes(now, Compacting()) == ()
