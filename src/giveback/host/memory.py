"""Sample the host's memory, or that of a cgroup which stands for a small host.

`MemAvailable` is the kernel's estimate (Documentation/filesystems/proc.rst). It does not include the ZFS
ARC, which shrinks late when memory is short: a host with a large ARC appears to have less than it does.
Pages of the hugetlb pool are neither available nor part of the total here: a VM on hugetlb returns its
memory to the pool, where no other process can use it.

In a cgroup, available memory is what its limit leaves, plus the cache in it that the kernel would drop at
once. The tightest of its own limit, the limits above it and the host's own memory counts.
Version 2: Documentation/admin-guide/cgroup-v2.rst; version 1: cgroup-v1/memory.rst.
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
    """A cgroup's memory: its limit (None if it has none of its own), its use, and its memory.stat."""

    limit_bytes: int | None
    used_bytes: int
    stat: Mapping[str, int]

    @property
    def available_bytes(self) -> int | None:
        """Memory that can be allocated before the limit is reached; None without a limit.

        As in `MemAvailable`, only half of the active cache and of the reclaimable slab counts.
        """
        if self.limit_bytes is None:
            return None
        stat = self.stat
        busy = stat.get("file_dirty", 0) + stat.get("file_writeback", 0)
        cache = stat.get("inactive_file", 0) + stat.get("active_file", 0) // 2
        reclaimable = max(0, cache - busy) + stat.get("slab_reclaimable", 0) // 2
        unused = max(0, self.limit_bytes - self.used_bytes)
        return min(self.limit_bytes, unused + min(reclaimable, self.used_bytes))


def read_host_view(root: str = "/", cgroup: str | None = None, *, now_s: float) -> HostView:
    """Sample the host. `cgroup` is the path of a cgroup's folder, of version 2 or 1, on the host.

    If it is None, the limit of the container in which this process runs counts, if any. Raises VmError
    that names the unreadable file, and InputError if the folder is not a cgroup with a memory controller.
    """
    try:
        host = _read_machine(root, now_s)
        if cgroup is None:
            # Only a container's root cgroup has limits: the machine's own root cgroup lacks this file.
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
        # Implausible other counters do not make MemAvailable doubtful.
        remarks=memory.remarks if any("MemAvailable" in r for r in memory.remarks) else (),
    )


def _some(stalls: Pressure | None) -> float | None:
    return stalls.some.avg10 if stalls else None


def _full(stalls: Pressure | None) -> float | None:
    return stalls.full.avg10 if stalls and stalls.full else None


def _checked(root: str, cgroup: str) -> str:
    """Return the folder without a final slash. Raises InputError if it has no memory controller."""
    folder = cgroup.rstrip("/")
    if _is_v2(root, folder) or files.exists(root, f"{folder}/memory.usage_in_bytes"):
        return folder
    if not files.exists(root, folder):
        raise InputError(f"{cgroup}: there is no such cgroup")
    raise InputError(
        f"{cgroup}: it has no memory.current: it is not a cgroup, or is the root cgroup, or lacks the "
        "memory controller (its parent's cgroup.subtree_control needs +memory)"
    )


def _is_v2(root: str, folder: str) -> bool:
    return files.exists(root, f"{folder}/memory.current")


def _of_group(root: str, folder: str, host: HostView) -> HostView:
    """Return the memory for processes of this cgroup: the tightest of its limits and the host's memory."""
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
    """Return the folders of the cgroup and of those above it that have a memory controller."""
    name = "memory.current" if _is_v2(root, folder) else "memory.usage_in_bytes"
    levels = [folder]
    while len(levels) < _LEVELS_LIMIT:
        above = levels[-1].rsplit("/", 1)[0]
        if not above or not files.exists(root, f"{above}/{name}"):
            break
        levels.append(above)
    return levels


def _read_v2(root: str, folder: str) -> tuple[ControlGroup, int | None]:
    """Read a cgroup of version 2; return it, and the swap in bytes that its own limit leaves."""
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
    """Read a cgroup of version 1; the limit of memory and swap together stands for that of swap."""
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
    """Parse memory.stat: bytes, and counts of pages or events; lines without a number are left out."""
    stat = {}
    for line in text.splitlines():
        name, _, token = line.partition(b" ")
        if token.isdigit() and len(token) < 20:
            stat[name.decode("ascii", "replace")] = int(token)
    return stat


def _swapped_in(stat: Mapping[str, int], otherwise_bytes: int) -> int:
    """Return the cgroup's own count of swapped-in pages in bytes; older kernels count refaults instead."""
    pages = stat.get("pswpin", stat.get("workingset_refault_anon"))
    return otherwise_bytes if pages is None else pages * PAGE_BYTES


def _group_pressure(root: str, folder: str) -> Pressure | None:
    """Return the cgroup's memory pressure; None if PSI is off, or for the host only (version 1)."""
    path = f"{folder}/memory.pressure"
    try:
        return pressure.parse(files.read(root, path), path)
    except KernelFileError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return None
        raise


def _amount(root: str, path: str) -> int | None:
    """Read a limit or a use in bytes; None for `max`, and for version 1's number that means the same."""
    token = files.read(root, path, 4096).strip()
    if token == b"max":
        return None
    if not token.isdigit() or len(token) > 20:
        raise KernelFileError(files.under(root, path), f"is not an amount: {token[:40]!r}")
    value = int(token)
    return None if value >= _NO_LIMIT_BYTES else value


def _optional_amount(root: str, path: str) -> int | None:
    """Read an amount as `_amount` does; None if the kernel does not have the file."""
    return _amount(root, path) if files.exists(root, path) else None


@dataclass(frozen=True, slots=True)
class HostView:
    """A sample of the host, or of the cgroup that stands for it."""

    at_s: float
    total_bytes: int
    available_bytes: int
    psi_memory_some_avg10: float | None = None
    psi_memory_full_avg10: float | None = None
    swap_in_bytes: int = 0
    """Since boot: the arbiter derives a rate from two samples."""
    swap_free_bytes: int = 0
    remarks: tuple[str, ...] = ()
    """Which numbers of the kernel are impossible, and what replaces them. The arbiter then goes by stalls."""
