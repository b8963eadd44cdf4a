"""mem-agent's measure of stalls: memory and io together, whole percents. Our re-implementation.

Percents are truncated, so a limit of 1 is exceeded at 2 %, and the first reading is 0. Both are
kept. Source: kata-containers 7c6ba40, src/libs/mem-agent/src/psi.rs.
"""

from __future__ import annotations

import os
import time

from giveback_kernel import files
from giveback_kernel.pressure import parse, path_of
from giveback_kernel.record import Record

MOUNT = "/sys/fs/cgroup"


class Reading(Record):
    """The total stalled time, and when it was read."""

    total_us: int = 0
    at_s: float = 0.0


def percent(before: Reading, now: Reading) -> int:
    """Return the whole percent of the time between two readings that was stalled."""
    elapsed_us = int((now.at_s - before.at_s) * 1000) * 1000
    if before.total_us == 0 or now.total_us <= before.total_us or elapsed_us <= 0:
        return 0
    return (now.total_us - before.total_us) * 100 // elapsed_us


class Psi:
    """Readings of one cgroup ("/" is the root's). Without `children`, their stalls are subtracted."""

    def __init__(self, root: str, cgroup: str, children: bool) -> None:
        self._root, self._children = root, children
        self._folder = MOUNT + cgroup.rstrip("/")
        self._is_root = cgroup.strip("/") == ""
        self._last = Reading(0, time.monotonic())

    def read_percent(self) -> int:
        """Return the percent since the last call; 0 at the first. Raises KernelFileError."""
        now = Reading(self._total_us("memory") + self._total_us("io"), time.monotonic())
        result = percent(self._last, now)
        self._last = now
        return result

    def _total_us(self, resource: str) -> int:
        # The root cgroup's pressure is the system's.
        path = path_of(resource) if self._is_root else f"{self._folder}/{resource}.pressure"
        total = self._some_us(path)
        if not self._children:
            total -= sum([self._some_us(p) for p in self._below(f"{resource}.pressure")])
        return max(0, total)

    def _below(self, name: str) -> list[str]:
        try:
            folders = os.listdir(files.under(self._root, self._folder))
        except OSError:
            return []
        paths = [f"{self._folder}/{folder}/{name}" for folder in folders]
        return [path for path in paths if files.exists(self._root, path)]

    def _some_us(self, path: str) -> int:
        return parse(files.read(self._root, path, 4096), path).some.total_us
