"""Sample a process: its owner, CPU time and swap, from `/proc/PID/stat` and `/proc/PID/status`.

Source: Linux fs/proc/array.c (do_task_stat, task_state), proc_pid_stat(5).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LIMIT_BYTES = 64 << 10
_STATE_FIELD = 3
"""The first field after the name, as proc_pid_stat(5) counts; the name may have any byte but NUL."""
_UTIME, _STIME, _START_TIME = 14 - _STATE_FIELD, 15 - _STATE_FIELD, 22 - _STATE_FIELD
_DIGITS_LIMIT = 19


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """A process at one moment; times are seconds since the host's boot."""

    at_s: float
    started_s: float
    cpu_s: float
    """CPU time of all threads in user and kernel mode since the start."""
    uid: int | None
    """The effective uid; None if unknown."""
    swap_bytes: int | None
    """VmSwap: anonymous memory in swap, without shared memory; None if unknown."""
    is_stopped: bool = False
    """Whether it was stopped by a signal (SIGSTOP; state T): none of its threads run."""


def read_process_sample(root: str, pid: int) -> ProcessSample | None:
    """Sample one process; None if it has ended or may not be read."""
    try:
        stat = files.read(root, f"/proc/{pid}/stat", _LIMIT_BYTES)
        status = files.read(root, f"/proc/{pid}/status", _LIMIT_BYTES)
    except KernelFileError:
        return None
    return parse_process(stat, status, time.clock_gettime(time.CLOCK_BOOTTIME))


def parse_process(stat: bytes, status: bytes, at_s: float) -> ProcessSample | None:
    """Parse both files, which were read at `at_s` since boot; None if `stat` is malformed."""
    fields = stat.rpartition(b")")[2].split()
    if len(fields) <= _START_TIME:
        return None
    times = [_number(fields[place]) for place in (_UTIME, _STIME, _START_TIME)]
    user, system, started = times
    if user is None or system is None or started is None:
        return None
    lines = _lines(status)
    swapped_kib = _number(*lines.get(b"VmSwap", ())[:1])
    return ProcessSample(
        at_s=at_s,
        started_s=started / TICKS_PER_S,
        cpu_s=(user + system) / TICKS_PER_S,
        # Real, effective, saved, file system.
        uid=_number(*lines.get(b"Uid", ())[1:2]),
        swap_bytes=None if swapped_kib is None else swapped_kib << 10,
        is_stopped=fields[0] == b"T",
    )


def _lines(status: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in status.split(b"\n"):
        name, colon, rest = line.partition(b":")
        # The first line of a name counts: the process's own name is in the first line, without newlines.
        if colon and name not in found:
            found[name] = rest.split()
    return found


def _number(word: bytes = b"") -> int | None:
    return int(word) if word.isdigit() and len(word) <= _DIGITS_LIMIT else None
