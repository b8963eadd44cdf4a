"""What a strategy of the benchmark is: how its VMs differ at the boot, and how it is started in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from giveback.errors import VmError
from giveback_lab.vms.vm import LabVm


class CannotRun(VmError):  # noqa: N818  # a finding about this kernel, no fault
    """The guest lacks what this strategy needs; its text says what. Found by probing in the guest."""


class Running(Protocol):
    """A strategy at work on the VMs it was started for."""

    @property
    def guest_pids(self) -> Mapping[str, tuple[int, ...]]:
        """By VM name: the processes and kernel threads in the guest that are the strategy's own."""

    @property
    def problems(self) -> list[str]:
        """What went wrong since the start, each once; empty where nothing did."""

    @property
    def log(self) -> str:
        """A line per action, each with its VM's name; bounded."""

    async def stop(self) -> None:
        """End it and leave no process in the guests. Safe to call twice, and after a VM's end."""


Start = Callable[[Sequence[LabVm], int], Awaitable[Running]]
Unsupported = Callable[[str], str | None]


def runs_everywhere(kernel: str) -> str | None:  # noqa: ARG001  # the interface
    """For strategies that every kernel of the lab can run."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to return memory. `name` is used on the command line and in file names.

    `start` takes booted VMs and the bytes of the host that they share, and returns when the strategy
    is at work in all of them; raises CannotRun where a guest lacks what it needs, and VmError.
    `version` is of the code that is at work beside the module that defines the strategy.
    `unsupported` takes a kernel series such as "6.1" and says why it is known not to run there.
    `quiet_s`: by its rule it takes no action for so many seconds after work, so that nobody has to
    keep still for it. What the kernel reports meanwhile is no action: it costs tenths of a second.
    """

    name: str
    title: str
    source: str
    start: Start
    reporting: bool = True
    kernel_arguments: str = ""
    version: str = ""
    unsupported: Unsupported = field(default=runs_everywhere)
    quiet_s: float = 0.0
