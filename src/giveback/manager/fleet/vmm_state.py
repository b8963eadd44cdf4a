"""The VMM's last answer about one VM, and the time of the next question.

Only the methods here assign the fields: tests/unit/manager/test_state_owners.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.guest.rate_limits import Backoff
from giveback.manager.decide import schedule
from giveback.vmm.base import ChannelKind, VmState

if TYPE_CHECKING:
    from giveback.vmm.base import Channel, VmDescription


class VmmState:
    """A VM's description, its VMM's last answer, and the times of that and of the next question."""

    __slots__ = (
        "agent_channel",
        "backoff",
        "description",
        "due_s",
        "inspected_at_s",
        "inspecting",
        "ram_bytes",
        "state",
    )

    def __init__(self, description: VmDescription, now_s: float) -> None:
        self.describe(description)
        self.state = VmState()
        self.due_s = now_s
        self.inspected_at_s: float | None = None
        self.inspecting = False
        self.backoff = Backoff(*schedule.MONITOR_S)

    def describe(self, description: VmDescription) -> None:
        """Store a new description of the VM; its agent channel is the first that may lead to our agent."""
        self.description = description
        ours = (c for c in description.channels if c.kind is not ChannelKind.QEMU_GUEST_AGENT)
        self.agent_channel: Channel | None = next(ours, None)
        self.ram_bytes = description.block_bytes or description.ram_bytes

    @property
    def should_answer(self) -> bool:
        """Whether a missing answer is an error: a QEMU without a monitor cannot answer."""
        return bool(self.description.control) or self.description.backend != "qemu"

    def hurry(self, at_s: float) -> None:
        """Ask at this time, unless it is due sooner."""
        self.due_s = min(self.due_s, at_s)

    def begin_inspection(self, due_s: float) -> None:
        """Record that the VMM is being asked; the next time is `due_s`."""
        self.inspecting, self.due_s = True, due_s

    def end_inspection(self) -> None:
        """Record that the VMM is no longer being asked, with or without success."""
        self.inspecting = False

    def take(self, state: VmState, now_s: float, chance: float) -> bool:
        """Store an answer or a failure; return whether the VM's description changed."""
        self.inspected_at_s = now_s
        if state.problems:
            # Its last answer is still better than none.
            state = replace(self.state, problems=state.problems)
            self.due_s = now_s + self.backoff.wait_s(chance)
        else:
            self.backoff.reset()
        self.state = state
        if state.description is None or state.description == self.description:
            return False
        self.describe(state.description)
        return True
