"""One frozen snapshot of the guest: all that a decision may rest on."""

from __future__ import annotations

from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.buddyinfo import BuddyInfo
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.vmstat import VmStat


class Snapshot(Record):
    """The guest at one moment. None where the kernel, or this user's rights, do not tell.

    `report_order` is the effective one. `reportable_bytes` and `trapped_bytes` split the buddy
    allocator's free bytes by it. `cache_bytes` is what reclaim can reach of the page cache;
    `cold_cache_bytes` the part of it that is clean and on the inactive list, an upper estimate of
    what the work would not read again soon. `vmstat`, `below_low_watermark` and `pcp_bytes` (free
    on per-CPU lists) are there where `detail` was asked for.
    """

    monotonic_s: float
    meminfo: MemInfo
    cpustat: CpuStat
    cache_bytes: int
    cold_cache_bytes: int
    buddy: BuddyInfo | None = None
    report_order: int | None = None
    reportable_bytes: int | None = None
    trapped_bytes: int | None = None
    vmstat: VmStat | None = None
    below_low_watermark: bool | None = None
    pcp_bytes: int | None = None


def cold_cache_bytes(memory: MemInfo) -> int:
    """Estimate the cold page cache: the inactive file list without what must be written first."""
    return max(0, memory.inactive_file_bytes - memory.dirty_bytes - memory.writeback_bytes)
