"""Take a snapshot of the guest, the input of a decision.

It reads four small files. The expensive ones, vmstat and zoneinfo, are read on request only.
"""

from __future__ import annotations

from giveback_agent.policy.observation import Snapshot, cold_cache_bytes
from giveback_kernel import buddyinfo, cgroup, huge_pages, page_reporting, vmstat, zoneinfo
from giveback_kernel.buddyinfo import BuddyInfo, read_buddyinfo
from giveback_kernel.cpustat import read_cpustat
from giveback_kernel.errors import KernelFileError
from giveback_kernel.meminfo import MemInfo, read_meminfo
from giveback_kernel.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.vmstat import VmStat
    from giveback_kernel.zoneinfo import ZoneInfo


class Totals:
    """CPU times and memory totals of /proc/stat and /proc/meminfo, each read once until `forget`.

    In a cgroup namespace the file lists are those of the namespace: reclaim does not reach the others.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._top = _namespace_top(root)
        self._cpustat: CpuStat | None = None
        self._meminfo: MemInfo | None = None

    def forget(self) -> None:
        """Forget both, so that the next call of each method reads its file again."""
        self._cpustat = self._meminfo = None

    def cpustat(self) -> CpuStat:
        """Return the CPU times. Raises KernelFileError."""
        if self._cpustat is None:
            self._cpustat = read_cpustat(self._root)
        return self._cpustat

    def meminfo(self) -> MemInfo:
        """Return the memory totals. Raises KernelFileError."""
        if self._meminfo is None:
            memory = read_meminfo(self._root)
            self._meminfo = _reachable(self._root, self._top, memory) if self._top else memory
        return self._meminfo


def take(
    root: str,
    monotonic_s: float,
    detail: bool = False,
    pageblock_order: int | None = None,
    report_order: int | None = None,
    totals: Totals | None = None,
) -> Snapshot:
    """Take a snapshot of the guest under `root` at `monotonic_s` (the caller's clock, seconds).

    `pageblock_order`: from page_reporting.read_pageblock_order(), used if no report order is set; by
    default it is derived from the huge page size. `report_order`: use this order instead of the present
    one, for an agent that has lowered it. `totals`: stat and meminfo that were read already.

    Raises KernelFileError if meminfo or stat fails. Fields of other files that fail are None.
    """
    totals = totals or Totals(root)
    memory, cpus = totals.meminfo(), totals.cpustat()
    buddy = _buddy(root)
    order = report_order
    if order is None:
        if pageblock_order is None:
            pageblock_order = _pageblock_order(root, memory, buddy)
        order = page_reporting.effective_order(_parameter(root), pageblock_order)
    reportable = trapped = None
    if buddy is not None and order is not None:
        reportable = buddyinfo.reportable_bytes(buddy, order)
        trapped = buddyinfo.trapped_bytes(buddy, order)
    zones = _zones(root) if detail else None
    return Snapshot(
        monotonic_s,
        memory,
        cpus,
        memory.file_bytes,
        cold_cache_bytes(memory),
        buddy,
        order,
        reportable,
        trapped,
        _vmstat(root) if detail else None,
        None if zones is None else zoneinfo.below_low_watermark(zones),
        _pcp_bytes(zones, buddy),
    )


def _namespace_top(root: str) -> str:
    """Return the folder of this cgroup namespace's top cgroup; "" outside of a namespace."""
    try:
        mounts = cgroup.read_cgroup(root)
    except KernelFileError:
        return ""
    return (mounts.v2_mount or "").rstrip("/") if mounts.is_part else ""


def _reachable(root: str, top: str, memory: MemInfo) -> MemInfo:
    from giveback_kernel import memcg

    try:
        lists = memcg.read_file_lists(root, top)
    except KernelFileError:
        return memory
    return replace(
        memory,
        active_file_bytes=min(memory.active_file_bytes, lists.active_bytes),
        inactive_file_bytes=min(memory.inactive_file_bytes, lists.inactive_bytes),
        dirty_bytes=min(memory.dirty_bytes, lists.dirty_bytes),
        writeback_bytes=min(memory.writeback_bytes, lists.writeback_bytes),
    )


def _parameter(root: str) -> int | None:
    try:
        return page_reporting.read_order(root)
    except KernelFileError:
        return None


def _pageblock_order(root: str, memory: MemInfo, buddy: BuddyInfo | None) -> int | None:
    """Derive the page block order from the huge page size, or from the largest block without huge pages."""
    if buddy is None:
        return None
    return huge_pages.pageblock_order(
        memory.hugepagesize_bytes,
        buddy.page_size_bytes,
        buddyinfo.max_order(buddy),
        huge_pages.read_pmd_size_bytes(root),
    )


def _buddy(root: str) -> BuddyInfo | None:
    try:
        return read_buddyinfo(root)
    except KernelFileError:
        return None


def _vmstat(root: str) -> VmStat | None:
    try:
        return vmstat.read_vmstat(root)
    except KernelFileError:
        return None


def _zones(root: str) -> ZoneInfo | None:
    try:
        return zoneinfo.read_zoneinfo(root)
    except KernelFileError:
        return None


def _pcp_bytes(zones: ZoneInfo | None, buddy: BuddyInfo | None) -> int | None:
    if zones is None or buddy is None:
        return None
    return zoneinfo.pcp_pages(zones) * buddy.page_size_bytes
