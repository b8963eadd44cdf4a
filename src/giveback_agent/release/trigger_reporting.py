"""Make the kernel start a reporting cycle, at the least cost.

The kernel queues a cycle only if a free block merges to the report order or above
(page_reporting_notify_free in mm/page_reporting.h). Memory that a program frees goes to per-CPU lists
first, tens of MiB of it, and leaves them in single pages. Blocks above PAGE_ALLOC_COSTLY_ORDER that are not
of the huge page's size bypass these lists (pcp_allowed_order in mm/page_alloc.c). One system call allocates
and frees such a block: a read of a sysctl, for which the kernel allocates a buffer as large as the caller's
(proc_sys_call_handler in fs/proc/proc_sysctl.c, kvzalloc since 5.11). It needs no privilege and has no side
effect. docs/deep-report.md has the figures.
"""

from __future__ import annotations

import mmap
import os

from giveback_kernel import buddyinfo, files, huge_pages, page_reporting
from giveback_kernel.buddyinfo import read_buddyinfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import Record
from giveback_kernel.zoneinfo import read_zoneinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.buddyinfo import BuddyInfo
    from giveback_kernel.zoneinfo import Zone, ZoneInfo

# Any sysctl would do; this one is a constant.
SYSCTL_PATH = "/proc/sys/kernel/ostype"
# PAGE_ALLOC_COSTLY_ORDER: up to it, freed blocks stay on per-CPU lists.
PCP_MOST_ORDER = 3
# PAGE_REPORTING_CAPACITY: the kernel skips a zone with fewer blocks than this above its low watermark.
CAPACITY_BLOCKS = 32
MOST_OF_FREE_DIVISOR = 32


class TriggerPlan(Record):
    """The block to pass through the allocator, or `order` None and the reason why not."""

    order: int | None
    block_bytes: int = 0
    refused: str = ""


class Triggered(Record):
    """The result of `trigger`. `done`: a block of `order` was freed, and a cycle starts within 2 s."""

    done: bool
    order: int | None = None
    block_bytes: int = 0
    refused: str = ""


def block_order(report_order: int, thp_order: int) -> int:
    """Return the lowest order that is reported at `report_order` and bypasses the per-CPU lists."""
    order = max(report_order, PCP_MOST_ORDER + 1)
    return order + 1 if order == thp_order else order


def plan(report_order: int, thp_order: int, buddy: BuddyInfo, zones: ZoneInfo) -> TriggerPlan:
    """Choose the block to pass through the allocator; refuse if no cycle would start or memory is short."""
    order = block_order(report_order, thp_order)
    if order > buddyinfo.max_order(buddy):
        return TriggerPlan(None, refused=f"no block above report order {report_order} exists here")
    block_pages = 1 << order
    # The allocator uses a small DMA zone only after all others.
    smallest = sum([zone.managed_pages for zone in zones.zones]) // 16
    spare = [
        zone
        for zone in zones.zones
        if zone.managed_pages > smallest and _is_reported(zone, report_order, block_pages)
    ]
    if not spare:
        return TriggerPlan(
            None, refused=f"every zone is too near its low watermark for order {report_order}"
        )
    roomy = {(zone.node, zone.zone) for zone in spare}
    if not any(any(z.counts[order:]) for z in buddy.zones if (z.node, z.zone) in roomy):
        return TriggerPlan(None, refused=f"no free block of order {order}")
    free_pages = sum([zone.free_pages for zone in spare])
    if block_pages * MOST_OF_FREE_DIVISOR > free_pages:
        return TriggerPlan(
            None, refused=f"a block of order {order} is too much of {free_pages} free pages"
        )
    return TriggerPlan(order, block_pages * buddy.page_size_bytes)


def _is_reported(zone: Zone, report_order: int, block_pages: int) -> bool:
    """Tell whether the kernel reports this zone (page_reporting_process_zone) without the block."""
    return zone.free_pages - block_pages > zone.low_pages + (CAPACITY_BLOCKS << report_order)


def trigger(root: str = "/") -> Triggered:
    """Start a reporting cycle at the present report order. Blocks for milliseconds.

    Raises KernelFileError if a kernel file cannot be read, and OSError if the buffer is not allocated.
    """
    buddy = read_buddyinfo(root)
    hugepagesize = read_meminfo(root).hugepagesize_bytes
    pmd_size = huge_pages.read_pmd_size_bytes(root)
    thp_order = huge_pages.pmd_order(hugepagesize, buddy.page_size_bytes, pmd_size)
    order = page_reporting.read_order(root)
    largest = buddyinfo.max_order(buddy)
    report_order = page_reporting.effective_order(order, min(thp_order, largest))
    chosen = plan(report_order, thp_order, buddy, read_zoneinfo(root))
    if chosen.order is None:
        return Triggered(False, refused=chosen.refused)
    # The kernel adds one byte, so that a read of half a block allocates a whole one.
    _read_sysctl(root, chosen.block_bytes // 2)
    return Triggered(True, chosen.order, chosen.block_bytes)


def _read_sysctl(root: str, size_bytes: int) -> None:
    buffer = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        # Only the first page is touched: it must not become a huge page.
        _without_huge_pages(buffer)
        path = files.under(root, SYSCTL_PATH)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.readv(fd, [buffer])
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error
    finally:
        buffer.close()


def _without_huge_pages(buffer: mmap.mmap) -> None:
    try:
        buffer.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError:
        # A kernel without transparent huge pages needs no advice.
        return
