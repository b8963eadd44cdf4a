"""Read the owner of a process: the users that it runs as. Source: Linux fs/proc/array.c (task_state)."""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

_LIMIT_BYTES = 64 << 10


def read_uids(root: str, pid: int) -> tuple[int, ...]:
    """Return the real, effective, saved and file-system uid of a process; () if it has ended."""
    try:
        return parse_uids(files.read(root, f"/proc/{pid}/status", _LIMIT_BYTES))
    except KernelFileError:
        return ()


def read_uid(root: str, pid: int) -> int | None:
    """Return the effective uid of a process, which owns its VM; None if the process has ended."""
    uids = read_uids(root, pid)
    return uids[1] if len(uids) > 1 else None


def parse_uids(status: bytes) -> tuple[int, ...]:
    """Parse the uids in `/proc/PID/status`. The process's name comes before, with its newlines escaped."""
    for line in status.split(b"\n"):
        name, _, rest = line.partition(b":")
        if name == b"Uid":
            words = rest.split()
            return tuple(int(word) for word in words if word.isdigit() and len(word) <= 10)
    return ()
