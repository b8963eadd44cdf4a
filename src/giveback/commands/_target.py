"""The VM that a command is about: by name or PID among those found, or any process by --pid."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.guest import from_agent, parse_object
from giveback.observe import Observation, observe
from giveback.pictures import GuestPicture, Source
from giveback.text import parse_size
from giveback.vmm import choose, find
from giveback.vmm.process import ProcessBackend

if TYPE_CHECKING:
    from giveback.vmm.base import Backend, VmDescription

_GUEST_FILE_LIMIT_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """VM, --pid, --ram and --guest."""
    parser.add_argument("vm", metavar="VM", nargs="?", help="the VM's name or its VMM's PID")
    parser.add_argument(
        "--pid", type=int, metavar="PID", help="any process: the host's side of an unknown VMM"
    )
    parser.add_argument(
        "--ram", type=_bytes, metavar="SIZE", help="with --pid: the guest's RAM, such as 4G"
    )
    parser.add_argument(
        "--guest",
        metavar="FILE",
        help="the guest's side: a file of what `giveback-agent picture` printed there; - is stdin",
    )


def _bytes(text: str) -> int:
    value = parse_size(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4G or 512M")
    return value


def chosen(args: argparse.Namespace) -> tuple[Backend, VmDescription]:
    """The VM that the arguments name. Raises InputError where there is none, or several."""
    if args.pid is not None:
        found = [pair for pair in find() if pair[1].pid == args.pid]
        if found and args.ram is None:
            return found[0]
        backend = ProcessBackend()
        return backend, backend.describe(args.pid, args.ram)
    vms = find()
    if args.vm is None:
        if len(vms) == 1:
            return vms[0]
        return choose(vms, "")
    return choose(vms, args.vm)


def guest_file(args: argparse.Namespace) -> dict[str, object] | None:
    """What --guest holds, or None without it. Raises InputError."""
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


def observed(args: argparse.Namespace, *, layout: bool) -> Observation:
    """The chosen VM, observed now."""
    backend, vm = chosen(args)
    said = guest_file(args)
    guest: GuestPicture | None = from_agent(said, Source.FILE) if said is not None else None
    return asyncio.run(observe(backend, vm, layout=layout, timeout_s=3.0, guest=guest))
