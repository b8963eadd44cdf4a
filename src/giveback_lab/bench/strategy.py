"""What a strategy of the benchmark is: the boot options of its VMs, and how it is started in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from giveback.errors import VmError
from giveback_lab.vms.vm import LabVm


class CannotRun(VmError):  # noqa: N818  # a finding about this kernel, no fault
    """The guest lacks something that this strategy needs, found by a probe; the text says what."""


class Running(Protocol):
    """A strategy that runs on the VMs it was started for."""

    @property
    def guest_pids(self) -> Mapping[str, tuple[int, ...]]:
        """By VM name: the processes and kernel threads in the guest that belong to the strategy."""

    @property
    def problems(self) -> list[str]:
        """All failures since the start, each once; empty if there were none."""

    @property
    def log(self) -> str:
        """Return a line per action, each with its VM's name; bounded."""

    async def stop(self) -> None:
        """Stop it and leave no process in the guests. Safe to call twice, and after a VM's end."""


Start = Callable[[Sequence[LabVm], int], Awaitable[Running]]
Unsupported = Callable[[str], str | None]


def runs_everywhere(kernel: str) -> str | None:  # noqa: ARG001  # the interface
    """Return None, for strategies that run on every kernel of the lab."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to return memory. `name` is used on the command line and in file names.

    - `start` takes booted VMs and the bytes of the host that they share. It returns once the strategy
      runs in all of them. It raises CannotRun if a guest lacks what it needs, and VmError.
    - `version` is of the code that runs in addition to the module that defines the strategy.
    - `unsupported` takes a kernel series such as "6.1" and returns why it is known not to run there.
    - `quiet_s`: by its rule the strategy takes no action for this many seconds after work, so other
      cells need not wait for it. Free page reporting meanwhile is not an action: it costs tenths of a
      second.
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
