"""Find why a VM returned less than it was asked for, as far as the host can tell. Pure."""

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
    """The reason in words. `is_excused`: the agent was right to return less; the VM is not blamed."""

    why: str
    is_excused: bool = False


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """The state of the agent after an ask. `step` is its last step, in the agent's own text."""

    hears: bool
    is_pressed: bool = False
    learned_floor_bytes: int = 0
    returnable_bytes: int = 0
    """Cache that a pass would take, without the floor."""
    has_begun: bool = False
    """Whether the agent has reported a step since it was asked."""
    step: str = ""


def shortfall_of(urgency: int, answer: AgentAnswer, found: Sequence[Finding]) -> Shortfall:
    """Return why too few bytes came; `found` are the findings of `giveback doctor` for the VM.

    A finding comes first: it keeps memory on the host whatever the guest does.
    """
    if found:
        return Shortfall(f"{found[0].what} ({found[0].evidence})")
    if not answer.hears:
        return Shortfall("its agent no longer answers")
    if answer.is_pressed:
        return Shortfall("the guest itself became short of memory", is_excused=True)
    if urgency <= 1 and answer.learned_floor_bytes and _is_at_floor(answer):
        kept = size(answer.learned_floor_bytes)
        return Shortfall(
            f"its agent keeps {kept} of cold cache, because cache that it freed before was read again",
            is_excused=True,
        )
    if not answer.has_begun:
        return Shortfall(
            f"its agent has started no pass at urgency {urgency}: the guest is busy, or has nothing "
            "to return"
        )
    return Shortfall(
        f"its agent's pass still runs, or the guest uses the memory again: {answer.step}"
    )


def _is_at_floor(answer: AgentAnswer) -> bool:
    """Return whether the cold cache above the agent's floor is too little to be worth a pass."""
    return answer.returnable_bytes < LEAST_GOAL_BYTES
