"""Why a VM returned less than it was asked for, as far as the host can tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.manager.decide.allocation import LEAST_GOAL_BYTES
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.accounting.diagnosis import Finding


@dataclass(frozen=True, slots=True)
class Shortfall:
    """The reason in words. `is_excused`: the agent did what it is there for; it is no fault of the VM's."""

    why: str
    is_excused: bool = False


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What is known of the agent after an ask. `step` is its last step, in its own words."""

    hears: bool
    is_pressed: bool = False
    learned_floor_bytes: int = 0
    returnable_bytes: int = 0
    """Cache that a pass would take: without what is kept of it."""
    has_begun: bool = False
    """Whether it has reported a step since it was asked."""
    step: str = ""


def shortfall_of(urgency: int, answer: AgentAnswer, found: Sequence[Finding]) -> Shortfall:
    """Return why too little came; `found` is what `giveback doctor` has against the VM.

    What keeps returned memory on the host comes first: it holds whatever the guest does.
    """
    if found:
        return Shortfall(f"{found[0].what} ({found[0].evidence})")
    if not answer.hears:
        return Shortfall("its agent no longer answers")
    if answer.is_pressed:
        return Shortfall("the guest has become short of memory itself", is_excused=True)
    if urgency <= 1 and answer.learned_floor_bytes and _is_at_floor(answer):
        kept = size(answer.learned_floor_bytes)
        return Shortfall(
            f"its agent keeps {kept} of cache that looks cold: what it took before was read again",
            is_excused=True,
        )
    if not answer.has_begun:
        return Shortfall(
            f"its agent has begun no pass at urgency {urgency}: the guest is busy, or its agent has "
            "nothing to take"
        )
    return Shortfall(f"its agent is at work, or what it freed is in use again: {answer.step}")


def _is_at_floor(answer: AgentAnswer) -> bool:
    """Whether hardly more looks cold than what the agent keeps of it."""
    return answer.returnable_bytes < LEAST_GOAL_BYTES
