"""One look at the host's memory, or at the control group that stands for a small host.

`MemAvailable` is the kernel's estimate (Documentation/filesystems/proc.rst). It leaves out the ZFS
ARC, which shrinks when memory is short, though late: a host with a large ARC looks shorter than it
is. Huge pages of the pool are neither available nor part of the total here: a VM on hugetlb gives
its memory back to the pool, and no process can take it from there.

Of a control group, what its limit leaves is available, and the cache in it as far as the kernel
would give that up at once. The tightest of its own limit and those above it counts, and the host's
own memory. Version 2: Documentation/admin-guide/cgroup-v2.rst; 1: cgroup-v1/memory.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

import errno
import os
from typing import TYPE_CHECKING

from giveback.errors import InputError, VmError
from giveback_kernel import cgroup as group_mount
from giveback_kernel import files, meminfo, pressure, vmstat
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback_kernel.pressure import Pressure

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LEVELS_LIMIT = 32
_NO_LIMIT_BYTES = 1 << 57


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A control group's memory: its limit (None: none of its own), its use, and what of it is cache."""

    limit_bytes: int | None
    used_bytes: int
    stat: Mapping[str, int]

    @property
    def available_bytes(self) -> int | None:
        """What can be had before the limit stops it; None without a limit.

        As in `MemAvailable`, half of what is in use (active cache, slab) is not counted on.
        """
        if self.limit_bytes is None:
            return None
        stat = self.stat
        busy = stat.get("file_dirty", 0) + stat.get("file_writeback", 0)
        cache = stat.get("inactive_file", 0) + stat.get("active_file", 0) // 2
        given_up = max(0, cache - busy) + stat.get("slab_reclaimable", 0) // 2
        room = max(0, self.limit_bytes - self.used_bytes)
        return min(self.limit_bytes, room + min(given_up, self.used_bytes))


def read_host_view(root: str = "/", cgroup: str | None = None, *, now_s: float) -> HostView:
    """One look. `cgroup` is a folder of cgroup version 2 or 1, as the host names it.

    Without one, the limit of the container that this process runs in counts, where there is one.
    Raises VmError that names the file, InputError for a folder that is no control group.
    """
    try:
        host = _read_machine(root, now_s)
        if cgroup is None:
            # Only the root of a container has limits: the machine's own root group has no such file.
            mount = group_mount.v2_mount_or_usual(root)
            inside = files.exists(root, f"{mount}/memory.max")
            return _of_group(root, mount, host) if inside else host
        return _of_group(root, _checked(root, cgroup), host)
    except KernelFileError as error:
        raise VmError(f"{error}; the host's memory is read from it") from error


def _read_machine(root: str, now_s: float) -> HostView:
    memory = meminfo.read_meminfo(root)
    stalls = pressure.read_pressure("memory", root)
    swapped_in = vmstat.read_vmstat(root).pswpin or 0
    return HostView(
        at_s=now_s,
        total_bytes=max(1, memory.mem_total_bytes - (memory.hugetlb_bytes or 0)),
        available_bytes=memory.mem_available_bytes,
        psi_memory_some_avg10=_some(stalls),
        psi_memory_full_avg10=_full(stalls),
        swap_in_bytes=swapped_in * PAGE_BYTES,
        swap_free_bytes=memory.swap_free_bytes,
        # Other counters that leak do not make what is available doubtful.
        remarks=memory.remarks if any("MemAvailable" in r for r in memory.remarks) else (),
    )


def _some(stalls: Pressure | None) -> float | None:
    return stalls.some.avg10 if stalls else None


def _full(stalls: Pressure | None) -> float | None:
    return stalls.full.avg10 if stalls and stalls.full else None


def _checked(root: str, cgroup: str) -> str:
    """The folder without a slash at its end. Raises InputError where it has no memory controller."""
    folder = cgroup.rstrip("/")
    if _is_v2(root, folder) or files.exists(root, f"{folder}/memory.usage_in_bytes"):
        return folder
    if not files.exists(root, folder):
        raise InputError(f"{cgroup}: there is no such control group")
    raise InputError(
        f"{cgroup}: no memory.current in it: no control group, the root one, or one without the "
        "memory controller (its parent's cgroup.subtree_control needs +memory)"
    )


def _is_v2(root: str, folder: str) -> bool:
    return files.exists(root, f"{folder}/memory.current")


def _of_group(root: str, folder: str, host: HostView) -> HostView:
    """The host as processes of this group have it: the tightest of its limits and the host itself."""
    read = _read_v2 if _is_v2(root, folder) else _read_v1
    total, available = host.total_bytes, host.available_bytes
    swap_free = host.swap_free_bytes
    for level in _levels(root, folder):
        group, swap_left = read(root, level)
        if group.limit_bytes is not None:
            total = min(total, max(1, group.limit_bytes))
            available = min(available, group.available_bytes or 0)
        if swap_left is not None:
            swap_free = min(swap_free, swap_left)
    own, _ = read(root, folder)
    stalls = _group_pressure(root, folder)
    return HostView(
        at_s=host.at_s,
        total_bytes=total,
        available_bytes=min(available, total),
        psi_memory_some_avg10=_some(stalls) if stalls else host.psi_memory_some_avg10,
        psi_memory_full_avg10=_full(stalls) if stalls else host.psi_memory_full_avg10,
        swap_in_bytes=_swapped_in(own.stat, host.swap_in_bytes),
        swap_free_bytes=swap_free,
        remarks=host.remarks,
    )


def _levels(root: str, folder: str) -> list[str]:
    """The group and those above it, as far as they have a memory controller that says anything."""
    name = "memory.current" if _is_v2(root, folder) else "memory.usage_in_bytes"
    levels = [folder]
    while len(levels) < _LEVELS_LIMIT:
        above = levels[-1].rsplit("/", 1)[0]
        if not above or not files.exists(root, f"{above}/{name}"):
            break
        levels.append(above)
    return levels


def _read_v2(root: str, folder: str) -> tuple[ControlGroup, int | None]:
    """The group, and how much swap its own limit leaves."""
    limits = [_amount(root, f"{folder}/{name}") for name in ("memory.max", "memory.high")]
    used = _amount(root, f"{folder}/memory.current")
    if used is None:
        raise KernelFileError(files.under(root, f"{folder}/memory.current"), "is not a number")
    stat = parse_stat(files.read(root, f"{folder}/memory.stat"))
    swap_limit = _optional_amount(root, f"{folder}/memory.swap.max")
    swap_used = _optional_amount(root, f"{folder}/memory.swap.current")
    left = None if swap_limit is None else max(0, swap_limit - (swap_used or 0))
    return ControlGroup(min((v for v in limits if v is not None), default=None), used, stat), left


_V1_NAMES = {
    "total_inactive_file": "inactive_file",
    "total_active_file": "active_file",
    "total_dirty": "file_dirty",
    "total_writeback": "file_writeback",
    "total_workingset_refault_anon": "workingset_refault_anon",
}


def _read_v1(root: str, folder: str) -> tuple[ControlGroup, int | None]:
    limit = _amount(root, f"{folder}/memory.limit_in_bytes")
    used = _amount(root, f"{folder}/memory.usage_in_bytes")
    if used is None:
        raise KernelFileError(
            files.under(root, f"{folder}/memory.usage_in_bytes"), "is not a number"
        )
    old = parse_stat(files.read(root, f"{folder}/memory.stat"))
    stat = {name: old[name_v1] for name_v1, name in _V1_NAMES.items() if name_v1 in old}
    both_limit = _optional_amount(root, f"{folder}/memory.memsw.limit_in_bytes")
    both_used = _optional_amount(root, f"{folder}/memory.memsw.usage_in_bytes")
    left = None if both_limit is None else max(0, both_limit - (both_used or 0))
    return ControlGroup(limit, used, stat), left


def parse_stat(text: bytes) -> dict[str, int]:
    """memory.stat: bytes, and counts of pages or events; lines that are no number are left out."""
    stat = {}
    for line in text.splitlines():
        name, _, token = line.partition(b" ")
        if token.isdigit() and len(token) < 20:
            stat[name.decode("ascii", "replace")] = int(token)
    return stat


def _swapped_in(stat: Mapping[str, int], otherwise_bytes: int) -> int:
    """The group's own count where its kernel has one (pages); older ones count what came back."""
    pages = stat.get("pswpin", stat.get("workingset_refault_anon"))
    return otherwise_bytes if pages is None else pages * PAGE_BYTES


def _group_pressure(root: str, folder: str) -> Pressure | None:
    """None where PSI is off, or kept for the host only (version 1)."""
    path = f"{folder}/memory.pressure"
    try:
        return pressure.parse(files.read(root, path), path)
    except KernelFileError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return None
        raise


def _amount(root: str, path: str) -> int | None:
    """A limit or a use in bytes; None for `max`, and for version 1's number that means the same."""
    token = files.read(root, path, 4096).strip()
    if token == b"max":
        return None
    if not token.isdigit() or len(token) > 20:
        raise KernelFileError(files.under(root, path), f"is not an amount: {token[:40]!r}")
    value = int(token)
    return None if value >= _NO_LIMIT_BYTES else value


def _optional_amount(root: str, path: str) -> int | None:
    """The same of a file that not every kernel has."""
    return _amount(root, path) if files.exists(root, path) else None


@dataclass(frozen=True, slots=True)
class HostView:
    """One look at the host, or at the cgroup that stands for it."""

    at_s: float
    total_bytes: int
    available_bytes: int
    psi_memory_some_avg10: float | None = None
    psi_memory_full_avg10: float | None = None
    swap_in_bytes: int = 0
    """Since boot: the arbiter makes a rate of two looks."""
    swap_free_bytes: int = 0
    remarks: tuple[str, ...] = ()
    """Which of the kernel's numbers cannot be, and what stands in their place: then stalls decide."""
