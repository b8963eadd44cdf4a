"""The agent with one of its parts left out, to measure what each part is worth.

Its service and its policy are the agent's own; some of the policy's actions are dropped. So the
agent needs no setting that users should never change. Parts that have a setting are switched off by
it: `--set` words are passed on.
"""

from __future__ import annotations

from giveback_agent.policy import adaptive
from giveback_agent.policy.actions import (
    Compact,
    LowerOrder,
    ReclaimCold,
    ReclaimSlab,
    TriggerReporting,
)
from giveback_kernel.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from giveback_agent.policy.actions import Action
    from giveback_agent.policy.adaptive import PolicyState
    from giveback_agent.policy.observation import GuestObservation, KernelCapabilities
    from giveback_agent.settings.table import AgentSettings

    Decide = Callable[
        [GuestObservation, PolicyState, AgentSettings, KernelCapabilities],
        tuple[tuple[Action, ...], PolicyState],
    ]

STEPS = {"slab": ReclaimSlab, "nudge": TriggerReporting}
PARTS = (*STEPS, "slack", "floor")


def without(part: str, decide: Decide) -> Decide:
    """Return `decide` without one part: slab step, reporting trigger, busy steps or learned floor."""

    def partly(
        seen: GuestObservation, state: PolicyState, settings: AgentSettings, can: KernelCapabilities
    ) -> tuple[tuple[Action, ...], PolicyState]:
        if part == "floor":
            state = replace(state, floor=replace(state.floor, learned_bytes=0))
        actions, after = decide(seen, state, settings, can)
        if part == "slack" and not after.in_pass:
            left_out = (ReclaimCold, LowerOrder, TriggerReporting, Compact)
            kept = tuple([a for a in actions if not isinstance(a, left_out)])
            return kept, replace(after, busy=state.busy)
        if part == "floor":
            return actions, replace(after, floor=replace(after.floor, learned_bytes=0))
        step, current = STEPS.get(part), after.current
        if current is not None:
            left = tuple([one for one in current.steps if one is not step])
            after = replace(after, current=replace(current, steps=left))
        return tuple([a for a in actions if type(a) is not step]), after

    return partly


def run_without(words: list[str]) -> int:
    """Run `giveback-without PART [SECTION.KEY=VALUE ...]`. Raises ValueError for an unknown part."""
    part, *overrides = words or [""]
    if part not in PARTS:
        raise ValueError(f"no part {part!r}: there are {', '.join(PARTS)}")
    from giveback_agent.commands.run import run_service

    # The service looks `decide` up in the module at each decision.
    whole: Any = adaptive
    whole.decide = without(part, adaptive.decide)
    return run_service("/", overrides)
