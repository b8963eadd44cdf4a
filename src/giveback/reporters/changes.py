"""What would change and what was changed; `giveback enable` shows it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from giveback.accounting.next_steps import quoted
from giveback.vmm.base import Answer
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.vmm.base import Channel, VmDescription
    from giveback.vmm.control.agent_port import PortPlan
    from giveback.vmm.control.live import LivePlan


def difference(lines: str) -> str:
    """Return a unified diff, safe for a terminal."""
    return "\n".join(escape_for_terminal(line, 400) for line in lines.splitlines())


def unified(before: str, after: str, name: str) -> str:
    """Return the difference of two texts as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name}, now", f"{name}, then", lineterm=""
    )
    return "\n".join(lines)


def steps(planned: PortPlan) -> str:
    """Return the steps that would plug in the agent's port, one a line."""
    return "\n".join(step.text for step in planned.steps)


def plugged(channel: Channel, backend: str) -> str:
    """Return where the port was plugged in, and the next steps."""
    lines = [
        f"plugged in: {escape_for_terminal(channel.path, 200)}",
        "an agent that runs there opens it within 10 s: `giveback explain` then asks it",
    ]
    if backend == "qemu":
        lines.append(
            "the VM's next start has it only with -device virtserialport on its command line"
        )
    return "\n".join(lines)


def next_start(vm: VmDescription, options: Sequence[str], started_by: str) -> str:
    """Return the options that a VM's command line lacks, and where they go."""
    name = f"{escape_for_terminal(vm.name, 60)} (pid {vm.pid}, {vm.backend})"
    if vm.unread:
        why = escape_for_terminal("; ".join(vm.unread), 300)
        return f"{name}: what it has is not known: {why}"
    if not options:
        return f"{name}: its command line has all that giveback uses"
    lines = [f"{name}: its next start needs", *(f"  {option}" for option in options)]
    if started_by:
        lines.append(
            f"on the command line that it gets from {escape_for_terminal(started_by, 200)}"
        )
    return "\n".join(lines)


def nothing_live(vm: VmDescription, problems: Sequence[str]) -> str:
    """Return why nothing can be changed while the VM runs."""
    if problems:
        return f"nothing can be done now: {escape_for_terminal('; '.join(problems), 300)}"
    return f"nothing can be done now: {vm.backend} takes these at the start only"


def live(vm: VmDescription, planned: LivePlan) -> str:
    """Return what can be done in a running VM, and why the rest cannot."""
    lines = [f"  {step.text}" for step in planned.steps]
    lines = ["now, while it runs:", *lines] if lines else []
    lines += [f"not now: {escape_for_terminal(why, 300)}" for why in planned.refusals]
    if vm.capabilities.agent_channel is Answer.NO:
        lines.append(f"the agent's port, now: giveback enable {quoted(vm)} --agent-port")
    return "\n".join(lines) or "nothing is left to do while it runs"


def statistics(vm: VmDescription, period_s: int) -> str:
    """Return that a guest is now asked for its numbers, or no longer."""
    name = escape_for_terminal(vm.name, 60)
    if not period_s:
        return f"{name}: the guest is no longer asked for its numbers"
    return f"{name}: the guest is asked for its numbers every {period_s} s (until its next start)"
