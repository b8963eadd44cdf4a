"""Read the memory of each service and container, on request and in bounded time.

The largest cgroups are split first. When the time or the number of reads is used up, the rest is counted
without being split. Before Linux 7.0 the pages of ended cgroups stay charged to them. The multi-gen LRU's
file lists each of them. Without it, memory of a slice that its children do not have counts as theirs.
"""

from __future__ import annotations

import heapq
import os
import time

from giveback_agent.cgroups import container_names, names, rows
from giveback_agent.cgroups.rows import CgroupRow, EndedPages, InnerCgroup
from giveback_kernel import cgroup, cgroup_stat, files, lru_gen, memcg_usage
from giveback_kernel.errors import KernelFileError
from giveback_kernel.memcg_usage import MemcgUsage
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READS_LIMIT = 2048
ENTRIES_LIMIT = 8192
DEPTH_LIMIT = 16
BUDGET_S = 1.0


class Survey(Record):
    """The rows, the largest first, and their total.

    `cgroups` is the number of units found. `is_whole`: no cgroup was left unsplit for lack of time. `why`
    is the reason if there are no rows, else "".
    """

    rows: tuple[CgroupRow, ...] = ()
    total: MemcgUsage = MemcgUsage()
    cgroups: int = 0
    is_whole: bool = True
    why: str = ""


def survey(
    root: str,
    limit: int = rows.ROWS_LIMIT,
    clock: Callable[[], float] = time.monotonic,
    budget_s: float = BUDGET_S,
) -> Survey:
    """Read the memory of each service and container under `root`: at most `limit` rows. Never raises."""
    try:
        mount = cgroup.read_cgroup(root).v2_mount
        total = total_usage(root)
    except KernelFileError as error:
        return Survey(why=str(error))
    if mount is None:
        return Survey(total=total, why="no cgroup v2 is mounted here")
    walk = _Walk(root, mount.rstrip("/"), clock, budget_s)
    ended = ended_pages(root)
    walk.run(total, count_ended=ended is None)
    if not walk.live:
        return Survey(total=total, why="no cgroup here has the memory controller")
    named = _named(root, rows.joined(walk.live, walk.inner, ended))
    return Survey(rows.largest(named, total, limit), total, len(walk.live), walk.is_whole)


def total_usage(root: str) -> MemcgUsage:
    """Return the memory in use of the whole guest, as for a cgroup. Raises KernelFileError."""
    memory = read_meminfo(root)
    cache = max(0, memory.cached_bytes + memory.buffers_bytes - memory.shmem_bytes)
    cold = max(0, memory.inactive_file_bytes - memory.dirty_bytes - memory.writeback_bytes)
    anon, shared = memory.anon_pages_bytes, memory.shmem_bytes
    kernel = max(0, memory.non_free_bytes - anon - cache - shared)
    return MemcgUsage(anon, cache, min(cold, cache), shared, kernel)


def ended_pages(root: str) -> list[EndedPages] | None:
    """List the memory of ended cgroups; None if the kernel or this user's rights do not provide it."""
    try:
        lru = lru_gen.read_lru_gen(root)
    except KernelFileError:
        return None
    if lru is None:
        return None
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return [
        EndedPages(one.memcg_path, one.anon_pages * page_bytes, one.file_pages * page_bytes)
        for one in lru.lists
        if one.has_ended
    ]


def _named(root: str, found: list[CgroupRow]) -> list[CgroupRow]:
    """Replace the ids of containers by their names, if files of root have them."""
    units = [names.unit_of(row.path) for row in found]
    known = container_names.names(root, frozenset([u.id for u in units if u is not None and u.id]))
    named = []
    for row, unit in zip(found, units):
        if unit is not None and unit.id in known:
            name = rows.shown_name(replace(unit, name=f"{unit.engine} {known[unit.id]}"))
            named.append(replace(row, name=name))
        else:
            named.append(row)
    return named


class _Walk:
    """A walk down the cgroup tree, the largest cgroup first."""

    def __init__(self, root: str, mount: str, clock: Callable[[], float], budget_s: float) -> None:
        self.live: list[CgroupRow] = []
        self.inner: dict[str, InnerCgroup] = {}
        self.is_whole = True
        self._root = root
        self._mount = mount
        self._clock = clock
        self._until_s = clock() + budget_s
        self._reads = 0

    def run(self, total: MemcgUsage, count_ended: bool) -> None:
        heap = [(-total.held_bytes, "/")]
        usages = {"/": total}
        while heap:
            path = heapq.heappop(heap)[1]
            usage = usages.pop(path)
            found, is_whole = self._children(path)
            if not found and path != "/":
                self.live.append(rows.unit_row(path, usage))
                continue
            rest = usage
            for child, used in found.items():
                rest = memcg_usage.without(rest, used)
                if names.unit_of(child) is not None or child.count("/") >= DEPTH_LIMIT:
                    self.live.append(rows.unit_row(child, used))
                else:
                    usages[child] = used
                    heapq.heappush(heap, (-used.held_bytes, child))
            ended = self._ended(path, found) if count_ended and is_whole else None
            self.inner[path] = InnerCgroup(rest, ended, is_whole)

    def _children(self, path: str) -> tuple[dict[str, MemcgUsage], bool]:
        """Read the children of a cgroup, and tell whether all of them were read."""
        found: dict[str, MemcgUsage] = {}
        try:
            with os.scandir(files.under(self._root, self._folder(path)) or "/") as entries:
                there = [entry for _, entry in zip(range(ENTRIES_LIMIT), entries)]
        except OSError:
            return {}, True
        listed = [entry.name for entry in there if _is_folder(entry)]
        is_all = len(there) < ENTRIES_LIMIT
        self.is_whole = self.is_whole and is_all
        for name in sorted(listed):
            if self._reads >= READS_LIMIT or self._clock() > self._until_s:
                self.is_whole = False
                return found, False
            self._reads += 1
            child = f"{path.rstrip('/')}/{name}"
            try:
                found[child] = memcg_usage.read_usage(self._root, self._folder(child))
            except KernelFileError:
                # It has just ended, or has no memory controller: its memory counts as its parent's.
                continue
        return found, is_all

    def _ended(self, path: str, children: dict[str, MemcgUsage]) -> int | None:
        """Count the ended cgroups directly below one; None if that is unknown."""
        below = self._dying(path)
        if not below:
            return below
        return max(0, below - sum([self._dying(child) or 0 for child in children]))

    def _dying(self, path: str) -> int | None:
        where = f"{self._folder(path)}/{cgroup_stat.STAT}"
        try:
            data = files.read(self._root, where, 4096)
            return cgroup_stat.parse(data, where).dying_descendants
        except KernelFileError:
            return None

    def _folder(self, path: str) -> str:
        return self._mount + path.rstrip("/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
