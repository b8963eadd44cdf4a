"""A pass as a plan: the steps it has, the steps it leaves out, and that it ends."""

from __future__ import annotations

import pytest
from agent_guests import ABLE, MIB, memory, observation, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import cache_goal, release_pass
from giveback_agent.policy.compaction import Compacting
from giveback_agent.policy.observation import KernelCapabilities, StepOutcome, Tick
from giveback_agent.policy.release_pass import Pass
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace

ORDER = (
    act.Sync, act.ReclaimCold, act.Reclaim, act.DropCaches, act.ReclaimSlab, act.DrainLists,
    act.Compact, act.LowerOrder, act.TriggerReporting,
)  # fmt: skip
CAN = st.builds(
    KernelCapabilities,
    reporting=st.sampled_from((True, False, None)),
    order=st.sampled_from((None, 0, 9)),
    order_settable=st.booleans(),
    reclaim=st.booleans(),
    drop_caches=st.booleans(),
    compaction=st.booleans(),
    cold_method=st.sampled_from(("none", "lists", "generations")),
    drain=st.booleans(),
)


def tick(
    cache: int = 600,
    trapped: int = 300,
    urgency: int = 1,
    can: KernelCapabilities = ABLE,
    dirty: int = 0,
) -> Tick:
    now = snapshot(100.0, cache=cache, trapped=trapped)
    dirty_bytes = min(dirty, cache) * MIB
    meminfo = replace(memory(cache=cache), dirty_bytes=dirty_bytes)
    now = replace(now, meminfo=meminfo, cold_cache_bytes=cache * MIB - dirty_bytes)
    return Tick(observation(now, urgency=urgency), AgentSettings(), can)


TICKS = st.builds(
    tick, st.integers(0, 900), st.integers(0, 600), st.integers(0, 3), CAN, st.integers(0, 900)
)


@given(TICKS, st.booleans())
def test_a_plan_has_each_step_at_most_once_and_in_order(seen: Tick, manual: bool) -> None:
    planned = release_pass.plan(seen, manual)
    places = [ORDER.index(kind) for kind in planned.steps]
    assert places == sorted(set(places))
    assert planned.urgency == seen.seen.urgency
    assert planned.manual is manual
    assert planned.hold is None
    reports = [ORDER.index(kind) for kind in planned.steps if kind in ORDER[5:]]
    assert bool(reports) == seen.reports


@given(TICKS, st.booleans())
def test_a_pass_comes_to_an_end(seen: Tick, manual: bool) -> None:
    left, steps = release_pass.plan(seen, manual), 0
    while True:
        step, left = release_pass.next_step(seen, left, Compacting())
        if step is None or left.hold is not None:
            break
        steps += 1
        assert steps < 40
    assert (left.hold is not None) == isinstance(step, act.LowerOrder)


@given(TICKS, st.integers(0, 900), st.booleans())
def test_no_more_cache_is_taken_than_the_host_wants(seen: Tick, wanted: int, manual: bool) -> None:
    cache_bytes = seen.now.cache_bytes
    kept_bytes = max(0, cache_bytes - wanted * MIB)
    bound = replace(seen, seen=replace(seen.seen, kept_cache_bytes=kept_bytes))
    # Only the whole cache can be dropped: then none is.
    only_drops = not seen.can.reclaim and seen.can.cold_method == "none"
    expected = min(cache_goal.goal_bytes(seen), cache_bytes - kept_bytes)
    assert cache_goal.goal_bytes(bound) == (
        0 if only_drops and not cache_goal.may_drop(bound) else expected
    )
    assert cache_goal.goal_after_sync_bytes(bound) <= min(wanted * MIB, cache_bytes)
    assert release_pass.plan(bound, manual).goal_bytes <= wanted * MIB
    # Reclaimed bytes count: the rest of the cache stays.
    gone = replace(seen.now, cache_bytes=kept_bytes, cold_cache_bytes=kept_bytes)
    assert cache_goal.goal_bytes(replace(bound, seen=replace(bound.seen, snapshot=gone))) == 0


@given(TICKS)
def test_a_pass_begins_where_something_is_dirty_only_with_writing_it(seen: Tick) -> None:
    """The goal after a sync is never less than the goal now."""
    after_bytes = cache_goal.goal_after_sync_bytes(seen)
    assert 0 <= cache_goal.goal_bytes(seen) <= after_bytes
    assert (act.Sync in release_pass.plan(seen).steps) == (after_bytes > 0)


def test_plain_reclaim_goes_in_bounded_steps_until_its_goal() -> None:
    seen, amounts = tick(cache=500, urgency=3), []
    left = Pass(3, steps=(act.Reclaim, act.Compact), goal_bytes=300 * MIB)
    while True:
        step, left = release_pass.next_step(seen, left, Compacting())
        if not isinstance(step, act.Reclaim):
            break
        amounts.append(step.amount_bytes // MIB)
    assert amounts == [128, 128, 44]
    assert isinstance(step, act.Compact)


@pytest.mark.parametrize(
    ("kept_mib", "method", "takes"),
    [
        (540, "limits", act.Reclaim),
        (540, "none", None),
        (0, "limits", act.DropCaches),
        # The cache that would stay is not worth a pass: all of it is wanted.
        (10, "none", act.DropCaches),
    ],
)
def test_at_urgency_3_with_an_amount_not_all_cache_is_dropped(
    kept_mib: int, method: str, takes: type[act.ReleaseStep] | None
) -> None:
    seen = tick(urgency=3, can=replace(ABLE, reclaim=False, cold_method=method))
    seen = replace(seen, seen=replace(seen.seen, kept_cache_bytes=kept_mib * MIB))
    planned = release_pass.plan(seen)
    steps = {act.Reclaim, act.DropCaches} & set(planned.steps)
    assert steps == ({takes} if takes else set())
    if takes is act.Reclaim:
        step, _ = release_pass.next_step(seen, replace(planned, steps=(act.Reclaim,)), Compacting())
        assert isinstance(step, act.Reclaim)
        assert (step.amount_bytes, step.may_drop) == (60 * MIB, False)


def test_an_amount_that_is_named_meanwhile_keeps_the_cache() -> None:
    seen = tick(urgency=3)
    seen = replace(seen, seen=replace(seen.seen, kept_cache_bytes=540 * MIB))
    left = Pass(3, steps=(act.DropCaches,), goal_bytes=600 * MIB)
    assert release_pass.next_step(seen, left, Compacting())[0] is None


def test_need_that_is_over_leaves_the_warm_cache() -> None:
    left = Pass(3, steps=(act.Reclaim, act.DropCaches, act.DrainLists), goal_bytes=300 * MIB)
    step, left = release_pass.next_step(tick(urgency=1), left, Compacting())
    assert step == act.DrainLists()
    assert left.steps == ()


@pytest.mark.parametrize(("manual", "trapped"), [(False, 4), (True, 4), (False, 300)])
def test_little_that_is_trapped_is_reported_only_in_a_manual_pass(
    manual: bool, trapped: int
) -> None:
    left = Pass(manual=manual, steps=(act.LowerOrder,))
    step, left = release_pass.next_step(tick(trapped=trapped), left, Compacting())
    assert (step is not None) == (manual or trapped > 8)
    assert (left.hold is not None) == (step is not None)


def test_reclaim_that_failed_is_not_tried_again_in_this_pass() -> None:
    from giveback_agent.policy import adaptive
    from giveback_agent.policy.adaptive import PolicyState

    state = PolicyState(current=Pass(3, steps=(act.Reclaim,), goal_bytes=300 * MIB))
    seen = replace(tick(urgency=3).seen, outcome=StepOutcome(act.Reclaim.kind, ok=False))
    actions, state = adaptive.decide(seen, state, AgentSettings(), ABLE)
    assert [type(action) for action in actions] == [act.EndPass]
    assert not state.in_pass
