"""VMs whose options belong to a manager (Proxmox, Incus): recognise it, and change what it starts them with.

A manager's own program is run: `pvesh`, `incus`. So its permissions, locks and checks hold.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import InputError, VmError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPUT_LIMIT_BYTES = 1 << 20
TIMEOUT_S = 30.0
_TEXT_LIMIT_CHARS = 300


@dataclass(frozen=True, slots=True)
class Change:
    """What would be changed in a VM's configuration, as text before and after, and the command for it.

    `command` is () if it is so already. `refusal` says why it cannot be changed now; '' if it can.
    """

    name: str
    before: str = ""
    after: str = ""
    command: tuple[str, ...] = ()
    stdin: str = ""
    then: str = ""
    refusal: str = ""


def output(command: Sequence[str], stdin: str = "", timeout_s: float = TIMEOUT_S) -> bytes:
    """Return what a manager's program prints. Raises VmError with its message, or if it takes too long."""
    shown = escape_for_terminal(" ".join(command[:3]), 120)
    try:
        done = subprocess.run(
            command, input=stdin.encode(), capture_output=True, check=False, timeout=timeout_s
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]} is not on PATH: run this on the host that has these VMs"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VmError(f"{shown}: {escape_for_terminal(str(error), _TEXT_LIMIT_CHARS)}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise VmError(
            f"{shown}: {escape_for_terminal(said, _TEXT_LIMIT_CHARS) or f'exit status {done.returncode}'}"
        )
    if len(done.stdout) > OUTPUT_LIMIT_BYTES:
        raise VmError(f"{shown}: its answer is longer than {OUTPUT_LIMIT_BYTES >> 10} KiB")
    return done.stdout


def parse_object(data: bytes, what: str) -> dict[str, object]:
    """Return a JSON object. Raises VmError that names `what`."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VmError(f"{what}: its answer is not JSON: run it yourself to see why") from error
    if not isinstance(found, dict):
        raise VmError(f"{what}: its answer is not a JSON object: run it yourself to see why")
    return found


def apply(change: Change) -> None:
    """Run the command of a change. Raises VmError with the manager's message."""
    if change.command:
        output(change.command, change.stdin)
