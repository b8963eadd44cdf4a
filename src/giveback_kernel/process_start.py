"""Identify a process by its id and start time: an id alone is reused for another process (proc(5))."""

from __future__ import annotations

import os

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

TEXT_LIMIT_BYTES = 64
_STAT_LIMIT_BYTES = 4096
_ENDED = (b"Z", b"X", b"x")


def parse_start_ticks(text: bytes) -> int | None:
    """Return when the process of this `/proc/PID/stat` started, in clock ticks since boot, or None.

    That is field 22; the name before it, in parentheses, may hold any character. None for invalid
    text.
    """
    fields = text.rpartition(b")")[2].split()
    if len(fields) < 20 or not fields[19].isdigit() or len(fields[19]) > 20:
        return None
    return int(fields[19])


def identity(pid: int | None = None) -> str:
    """Return the line `PID TICKS` that identifies a process, this one by default; "" if it has ended."""
    pid = os.getpid() if pid is None else pid
    stat = _stat(pid)
    ticks = parse_start_ticks(stat)
    if ticks is None or stat.rpartition(b")")[2].split()[0] in _ENDED:
        return ""
    return f"{pid} {ticks}\n"


def running(text: bytes) -> int | None:
    """Return the pid of a line made by `identity`, or None if that same process has ended."""
    words = text[:TEXT_LIMIT_BYTES].split()
    if len(words) != 2 or not words[0].isdigit() or not 0 < len(words[0]) <= 10:
        return None
    pid = int(words[0])
    return pid if text == identity(pid).encode() != b"" else None


def _stat(pid: int) -> bytes:
    try:
        return files.read("/", f"/proc/{pid}/stat", _STAT_LIMIT_BYTES)
    except KernelFileError:
        return b""
