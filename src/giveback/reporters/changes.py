"""What would change and what was changed; `giveback enable` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.vmm.base import Channel
    from giveback.vmm.control.agent_port import PortPlan


def difference(lines: str) -> str:
    """Return a unified diff, safe for a terminal."""
    return "\n".join(escape_for_terminal(line, 400) for line in lines.splitlines())


def steps(planned: PortPlan) -> str:
    """Return the steps that would plug the agent's port in, one a line."""
    return "\n".join(step.text for step in planned.steps)


def plugged(channel: Channel, backend: str) -> str:
    """Return where the port was plugged in, and what follows from that."""
    lines = [
        f"plugged in: {escape_for_terminal(channel.path, 200)}",
        "an agent that runs there opens it within 10 s: `giveback explain` then asks it",
    ]
    if backend == "qemu":
        lines.append(
            "the VM's next start has it only with -device virtserialport on its command line"
        )
    return "\n".join(lines)
