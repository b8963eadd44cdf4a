"""Start the agent in a lab guest as its user would, and wait until it serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.images.image import GUEST_AGENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_lab.vms.vm import LabVm

AGENT_UNIT = "giveback-agent.service"
STATUS_PATH = "/run/giveback/status.json"
START_DEADLINE_S = 120.0
POLL_S = 0.5


async def start_agent(
    vm: LabVm, on_line: Callable[[str], None] | None = None, overrides: tuple[str, ...] = ()
) -> int:
    """Start the service; return its pid in the guest once its status file exists.

    The cost of its start (the agent unpacks and compiles itself) must not count as part of the
    guest's workload. `overrides` are settings as for `--set`; without any, a guest with systemd has
    the agent installed. Raises VmError if it does not come up.
    """
    if vm.has_systemd and not overrides:
        return await _install(vm)
    words = [word for override in overrides for word in ("--set", override)]
    pid = await vm.guest.spawn("python3", GUEST_AGENT, *words, "run", on_line=on_line)
    await wait_until_it_serves(vm)
    return pid


async def _install(vm: LabVm) -> int:
    done = await vm.watch(
        vm.guest.exec("python3", GUEST_AGENT, "install"),
        START_DEADLINE_S,
        "the agent's installation",
    )
    if done.code != 0:
        raise VmError(
            f"{vm.spec.name}: giveback-agent install: {escape_for_terminal(done.text, 300)}"
        )
    await wait_until_it_serves(vm)
    shown = await vm.guest.exec("systemctl", "show", "-p", "MainPID", "--value", AGENT_UNIT)
    if not shown.text.strip().isdecimal():
        raise VmError(f"{vm.spec.name}: {AGENT_UNIT} has no process")
    return int(shown.text)


async def wait_until_it_serves(vm: LabVm) -> None:
    """Wait until the agent's status file exists. Raises VmError if the agent does not come up."""
    await vm.watch(_served(vm), START_DEADLINE_S, "the agent's start")


async def _served(vm: LabVm) -> None:
    while (await vm.guest.exec("cat", STATUS_PATH)).code != 0:  # noqa: ASYNC110  # no event for it
        await asyncio.sleep(POLL_S)


class AgentLog:
    """The agent's output lines, in a file of bounded size. A full disk loses lines and nothing else."""

    LIMIT_CHARACTERS = 1 << 20

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = 0

    def take(self, line: str) -> None:
        """Keep one line with its control characters escaped: a guest's text is later shown in a terminal."""
        safe = escape_for_terminal(line, self.LIMIT_CHARACTERS)
        self._size += len(safe)
        if self._size <= self.LIMIT_CHARACTERS:
            self._lines.append(safe)

    @property
    def text(self) -> str:
        """Return all lines that were kept."""
        return "".join(line + "\n" for line in self._lines)
