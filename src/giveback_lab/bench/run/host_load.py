"""How busy other processes kept the host: its CPU time less that of the lab's VMMs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback_kernel.cpustat import read_cpustat
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """User and system seconds of a process since its start, for all its threads."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """The sum of both, in seconds."""
        return self.user_s + self.system_s


def parse_process_stat(text: str) -> CpuTime | None:
    """Parse `/proc/PID/stat`; return None if it is invalid. The name in it may hold any character."""
    words = text.rpartition(")")[2].split()[11:13]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    return CpuTime(int(words[0]) / TICKS_PER_S, int(words[1]) / TICKS_PER_S)


def process_cpu(pid: int, root: str = "/") -> CpuTime:
    """Return the CPU time of a process. Raises VmError if it has ended."""
    path = Path(root) / "proc" / str(pid) / "stat"
    try:
        found = parse_process_stat(path.read_text(errors="replace"))
    except OSError as error:
        raise VmError(f"{path}: {error.strerror}: has the VM ended?") from error
    if found is None:
        raise VmError(f"{path}: not as Documentation/filesystems/proc.rst says")
    return found


@dataclass(frozen=True, slots=True)
class LoadMark:
    """The host's CPU seconds at one time, and those of all VMMs that ever ran for the lab."""

    busy_s: float
    all_s: float
    ours_s: float


def others_share(first: LoadMark, last: LoadMark) -> float:
    """Return the fraction of the host's CPUs that others used between two marks, 0 to 1."""
    span_s = last.all_s - first.all_s
    if span_s <= 0:
        return 0.0
    others_s = (last.busy_s - first.busy_s) - (last.ours_s - first.ours_s)
    return min(1.0, max(0.0, others_s / span_s))


class HostLoad:
    """Track the lab's VMMs, so that their CPU time is known after their end, too."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._running: dict[int, float] = {}
        self._ended_s = 0.0

    def follow(self, pids: Iterable[int]) -> None:
        """Count these VMMs as the lab's from now on."""
        for pid in pids:
            self._running.setdefault(pid, 0.0)

    def leave(self, pids: Iterable[int]) -> None:
        """Keep the current CPU time of these VMMs. Call it before they are ended."""
        self._look()
        for pid in pids:
            self._ended_s += self._running.pop(pid, 0.0)

    def mark(self) -> LoadMark:
        """Return a mark of the present time. Raises VmError."""
        self._look()
        try:
            stat = read_cpustat(self._root)
        except KernelFileError as error:
            raise VmError(str(error)) from error
        all_ticks = stat.busy_ticks + stat.idle_ticks + stat.iowait_ticks
        ours_s = self._ended_s + sum(self._running.values())
        return LoadMark(stat.busy_ticks / TICKS_PER_S, all_ticks / TICKS_PER_S, ours_s)

    def _look(self) -> None:
        for pid in self._running:
            try:
                self._running[pid] = process_cpu(pid, self._root).total_s
            except VmError:
                # The VMM has ended by itself: use the time of the last sample.
                continue
