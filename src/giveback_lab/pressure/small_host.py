"""A small host within this one: a memory cgroup around VMs and other processes that take memory.

Supports both versions of cgroups: version 1 where the memory controller is bound to it. Source:
Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from giveback.errors import InputError

if TYPE_CHECKING:
    from giveback_lab.vms.emulator import Emulator

CGROUPS = Path("/sys/fs/cgroup")
_EMPTY_DEADLINE_S = 10.0
# The shell execs the program, so the same process is in the group before its first page.
_ENTER = 'echo 0 > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class _Names:
    """The file names of one cgroup version."""

    limit: str
    usage: str
    swap: str
    oom: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "memory.oom_control")
_V2 = _Names("memory.max", "memory.current", "memory.swap.current", "memory.events")


@dataclass(frozen=True, slots=True)
class HostSample:
    """A sample of the small host. `available_bytes` is its unused memory plus its page cache."""

    limit_bytes: int
    used_bytes: int
    available_bytes: int
    oom_kills: int
    group_bytes: dict[str, int]
    group_swap_bytes: dict[str, int]


class SmallHost:
    """A memory cgroup with one child for each of `groups`. It is always removed at the end."""

    def __init__(self, limit_bytes: int, groups: tuple[str, ...]) -> None:
        self.limit_bytes = limit_bytes
        self.groups = groups
        self.path, self._names = _place()

    def __enter__(self) -> Self:
        """Make the groups. Raises InputError if this user or this kernel cannot."""
        try:
            self.path.mkdir()
            if self._names is _V2:
                (self.path / "cgroup.subtree_control").write_text("+memory")
            (self.path / self._names.limit).write_text(str(self.limit_bytes))
            for group in self.groups:
                (self.path / group).mkdir()
        except OSError as error:
            self._remove()
            raise InputError(
                f"{self.path}: no small host can be made: {error.strerror}; it takes root, and "
                "cgroups that may be written"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        """Remove the groups once they have no process; the callers end those."""
        deadline_s = time.monotonic() + _EMPTY_DEADLINE_S
        for path in (*(self.path / group for group in self.groups), self.path):
            while path.exists():
                with contextlib.suppress(OSError):
                    path.rmdir()
                    break
                if time.monotonic() > deadline_s:
                    return
                time.sleep(0.05)

    def entering(self, group: str, *command: str) -> list[str]:
        """Return a command line that runs `command` in a group."""
        return ["/bin/sh", "-c", _ENTER, str(self.path / group / "cgroup.procs"), *command]

    def emulator_in(self, group: str, emulator: Emulator) -> Emulator:
        """Return the emulator such that it starts in a group."""
        words = self.entering(group, str(emulator.program), *emulator.arguments)
        return replace(emulator, program=Path(words[0]), arguments=tuple(words[1:]))

    def sample(self) -> HostSample:
        """Sample the host."""
        used = int((self.path / self._names.usage).read_text())
        stat = _table(self.path / "memory.stat")
        old = self._names is _V1
        prefix = "total_" if old else ""
        cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
        return HostSample(
            limit_bytes=self.limit_bytes,
            used_bytes=used,
            available_bytes=max(0, self.limit_bytes - used + cache),
            oom_kills=sum(
                _table(self.path / g / self._names.oom).get("oom_kill", 0)
                for g in ((*self.groups, ".") if old else (".",))
            ),
            group_bytes={
                g: int((self.path / g / self._names.usage).read_text()) for g in self.groups
            },
            group_swap_bytes={g: self._swap(g) for g in self.groups},
        )

    def _swap(self, group: str) -> int:
        path = self.path / group / self._names.swap
        if self._names is _V1:
            return _table(path).get("swap", 0)
        return int(path.read_text()) if path.exists() else 0


def _place() -> tuple[Path, _Names]:
    """Return the folder for the groups, and the file names of its cgroup version."""
    name = f"giveback-lab-{os.getpid()}"
    controllers = CGROUPS / "cgroup.controllers"
    if controllers.exists() and "memory" in controllers.read_text().split():
        return CGROUPS / name, _V2
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, group = line.split(":", 2)
        if "memory" in kinds.split(","):
            parent = CGROUPS / "memory" / group.lstrip("/")
            # Inside a container the path of the own group may not be visible.
            return (parent if parent.is_dir() else CGROUPS / "memory") / name, _V1
    raise InputError(f"{CGROUPS}: no memory controller: cannot make a small host")


def _table(path: Path) -> dict[str, int]:
    """Parse a file of `name number` lines."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
