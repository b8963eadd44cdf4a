"""Whose a process is: the users that it runs as. Source: Linux fs/proc/array.c (task_state)."""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

_LIMIT_BYTES = 64 << 10


def read_uids(root: str, pid: int) -> tuple[int, ...]:
    """Return the real, effective, saved and file system's uid of a process; () where it has gone."""
    try:
        return parse_uids(files.read(root, f"/proc/{pid}/status", _LIMIT_BYTES))
    except KernelFileError:
        return ()


def read_uid(root: str, pid: int) -> int | None:
    """Return the effective uid of a process, whose the VM is; None where it has gone."""
    uids = read_uids(root, pid)
    return uids[1] if len(uids) > 1 else None


def parse_uids(status: bytes) -> tuple[int, ...]:
    """Parse `/proc/PID/status`. The name of a process stands before, with its newlines escaped."""
    for line in status.split(b"\n"):
        name, _, rest = line.partition(b":")
        if name == b"Uid":
            words = rest.split()
            return tuple(int(word) for word in words if word.isdigit() and len(word) <= 10)
    return ()
