"""The agent without one of its parts: the part never acts, the rest continues."""

from __future__ import annotations

import pytest
from agent_guests import ABLE, memory, observation, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import adaptive
from giveback_agent.policy.actions import Action
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.adaptive import PolicyState
from giveback_agent.policy.observation import (
    GuestObservation,
    StepOutcome,
)
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace
from giveback_kernel.vmstat import VmStat
from giveback_lab_guest.strategies.giveback_without import PARTS, run_without, without

SETTINGS = AgentSettings()
LEVELS = (idleness.IDLE, idleness.SPARE, idleness.BUSY)


def guest(now_s: float, level: str, urgency: int, outcome: StepOutcome | None) -> GuestObservation:
    """A guest with much cache, much slab and much trapped memory: there is work for every part."""
    now = snapshot(now_s, refaults=int(now_s) * 10_000)
    vm = VmStat(0, workingset_refault_file=int(now_s) * 10_000, pgsteal_file=int(now_s) * 50_000)
    now = replace(now, vmstat=vm, meminfo=replace(memory(), s_reclaimable_bytes=1 << 28))
    return observation(now, level, urgency, outcome=outcome)


def course(part: str, levels: list[str], urgency: int) -> tuple[list[Action], PolicyState]:
    """Return all actions of samples 30 s apart, each done at once."""
    decide = without(part, adaptive.decide)
    actions: list[Action] = []
    state, outcome = PolicyState(), None
    for number, level in enumerate(levels):
        for step in range(12):
            seen = guest(30.0 * number + step, level, urgency, outcome)
            outcome = None
            found, state = decide(seen, state, SETTINGS, ABLE)
            actions += found
            worked = [one for one in found if isinstance(one, act.WorkerStep)]
            if worked:
                outcome = StepOutcome(worked[-1].kind, ok=True)
    return actions, state


@pytest.mark.parametrize(
    ("part", "kind"), [("slab", act.ReclaimSlab), ("nudge", act.TriggerReporting)]
)
@settings(deadline=None)
@given(levels=st.lists(st.sampled_from(LEVELS), max_size=4), urgency=st.integers(0, 3))
def test_a_step_left_out_is_never_asked_for(
    part: str, kind: type[Action], levels: list[str], urgency: int
) -> None:
    actions, _ = course(part, levels, urgency)
    assert kind not in {type(one) for one in actions}


@pytest.mark.parametrize("part", PARTS)
def test_the_rest_of_a_pass_goes_on(part: str) -> None:
    kinds = {type(one) for one in course(part, [idleness.IDLE] * 3, 1)[0]}
    assert {act.BeginPass, act.Sync, act.ReclaimCold, act.Compact, act.LowerOrder} <= kinds
    assert (act.ReclaimSlab in kinds) == (part != "slab")
    assert (act.TriggerReporting in kinds) == (part != "nudge")


def test_without_slack_a_busy_guest_is_left_alone() -> None:
    assert course("slack", [idleness.SPARE] * 3, 1)[0] == []
    kinds = {type(one) for one in course("slab", [idleness.SPARE] * 3, 1)[0]}
    assert {act.ReclaimCold, act.LowerOrder, act.RestoreOrder} <= kinds


def test_without_the_floor_nothing_is_learned() -> None:
    levels = [idleness.SPARE, idleness.IDLE, idleness.SPARE]
    assert course("floor", levels, 1)[1].floor.learned_bytes == 0
    assert course("slab", levels, 1)[1].floor.learned_bytes > 0


@pytest.mark.parametrize("words", [[], ["nosuch"]])
def test_an_unknown_part_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="there are slab, "):
        run_without(words)
