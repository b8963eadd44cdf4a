"""The VM that a command is about: by name or PID among those found, or any process by --pid."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.accounting.usage import GuestSource
from giveback.arguments import size_of
from giveback.errors import InputError
from giveback.guest.observe import observe, observe_pages
from giveback.guest.protocol import from_agent, parse_object
from giveback.vmm.backends.process import ProcessBackend
from giveback.vmm.find import choose, find
from giveback_kernel.fields import BYTES_LIMIT

if TYPE_CHECKING:
    import argparse

    from giveback.accounting.observation import Observation
    from giveback.vmm.base import Backend, VmDescription

_GUEST_FILE_LIMIT_BYTES = 64 << 20
_TIMEOUT_S = 3.0
_PATIENCE_S = 15.0
"""Who asks about one VM would rather wait than be told to ask again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add VM, --pid, --ram and --guest."""
    parser.add_argument(
        "vm", metavar="VM", nargs="?", help="the VM's name, its key or its VMM's PID"
    )
    parser.add_argument(
        "--pid", type=int, metavar="PID", help="any process: the host's side of an unknown VMM"
    )
    parser.add_argument(
        "--ram",
        type=lambda text: size_of(text, "--ram", BYTES_LIMIT),
        metavar="SIZE",
        help="with --pid: the guest's RAM, such as 4G",
    )
    parser.add_argument(
        "--guest",
        metavar="FILE",
        help="the guest's side: a file of what `giveback-agent picture` printed there; - is stdin",
    )


def chosen(args: argparse.Namespace) -> tuple[Backend, VmDescription]:
    """Return the VM that the arguments name. Raises InputError if there is none, or several."""
    if args.pid is not None:
        found = [pair for pair in find() if pair[1].pid == args.pid]
        if found and args.ram is None:
            return found[0]
        backend = ProcessBackend()
        return backend, backend.describe(args.pid, args.ram)
    return choose(find(), args.vm or "")


def guest_file(args: argparse.Namespace) -> dict[str, object] | None:
    """Return the content of --guest, or None without it. Raises InputError."""
    if args.guest is None:
        return None
    try:
        if args.guest == "-":
            text = sys.stdin.read(_GUEST_FILE_LIMIT_BYTES + 1)
        else:
            with Path(args.guest).open(encoding="utf-8", errors="replace") as file:
                text = file.read(_GUEST_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{args.guest}: {error.strerror}") from error
    said = parse_object(text) if len(text) <= _GUEST_FILE_LIMIT_BYTES else {}
    if not said:
        raise InputError(f"{args.guest}: not what `giveback-agent picture` prints")
    return said


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A VM to observe, perhaps repeatedly; `said` is the content of --guest."""

    backend: Backend
    vm: VmDescription
    said: dict[str, object] | None

    async def observe(self, by_cgroup: bool = False) -> Observation:
        """Return the VM now, with all questions that leave no mark on it; `by_cgroup` adds its services."""
        return await observe(
            self.backend,
            self.vm,
            layout=not self.backend.layout_taints,
            timeout_s=_TIMEOUT_S,
            guest_timeout_s=_TIMEOUT_S,
            guest=None if self.said is None else from_agent(self.said, GuestSource.FILE),
            by_cgroup=by_cgroup,
            patience_s=_PATIENCE_S,
        )

    async def observe_pages(self) -> tuple[Observation, dict[str, object]]:
        """Return the VM now, and its guest's pages: from --guest, else from the agent."""
        return await observe_pages(self.backend, self.vm, timeout_s=_TIMEOUT_S, said=self.said)


def target(args: argparse.Namespace) -> CommandTarget:
    """Return the VM that the arguments name. Raises InputError if there is none, or several."""
    backend, vm = chosen(args)
    return CommandTarget(backend, vm, guest_file(args))
