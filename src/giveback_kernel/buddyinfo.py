"""/proc/buddyinfo: free blocks per NUMA node, zone and order.

Source: frag_show() in mm/vmstat.c. The pages on per-CPU lists are not in it (see zoneinfo), so the
sum can be below MemFree.
"""

from __future__ import annotations

import os

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number, quoted, text
from giveback_kernel.record import Record

PATH = "/proc/buddyinfo"
# Kernels have 11 orders, arm64 with 64 KiB pages 14; a larger number is not a buddy allocator's.
ORDERS_LIMIT = 32
_FREE_BLOCKS_LIMIT = 1 << 53


class ZoneBlocks(Record):
    """Free blocks of one zone: `counts[order]` blocks of 2**order pages each."""

    node: int
    zone: str
    counts: tuple[int, ...]


class BuddyInfo(Record):
    """Every zone's free blocks, and the size of the page they are counted in."""

    zones: tuple[ZoneBlocks, ...]
    page_size_bytes: int


def parse(data: bytes, page_size_bytes: int = 4096) -> BuddyInfo:
    """Parse the text of /proc/buddyinfo.

    Raises KernelFileError if it has no zone, an unfinished line, or a line of another form.
    """
    if not data.endswith(b"\n"):
        raise KernelFileError(PATH, "empty, or its last line is unfinished")
    zones = tuple([_zone(line) for line in data.split(b"\n")[:-1]])
    buddy = BuddyInfo(zones, page_size_bytes)
    if free_bytes(buddy) >= BYTES_LIMIT:
        raise KernelFileError(PATH, f"{free_bytes(buddy)} free bytes is absurd")
    return buddy


def read_buddyinfo(root: str = "/") -> BuddyInfo:
    """Read /proc/buddyinfo under `root`, in this machine's page size. Raises KernelFileError."""
    return parse(files.read(root, PATH), os.sysconf("SC_PAGE_SIZE"))


def free_bytes(buddy: BuddyInfo, order_at_least: int = 0, node: int | None = None) -> int:
    """Return the free bytes in blocks of `order_at_least` and above, of one NUMA node or of all."""
    pages = 0
    lowest = max(0, order_at_least)
    for zone in buddy.zones:
        if node is None or zone.node == node:
            for order in range(lowest, len(zone.counts)):
                pages += zone.counts[order] << order
    return pages * buddy.page_size_bytes


def reportable_bytes(buddy: BuddyInfo, report_order: int, node: int | None = None) -> int:
    """Return the free bytes that page reporting returns to the host at this report order."""
    return free_bytes(buddy, report_order, node)


def trapped_bytes(buddy: BuddyInfo, report_order: int, node: int | None = None) -> int:
    """Return the free bytes in blocks below the report order: free here, still resident on the host."""
    return free_bytes(buddy, 0, node) - free_bytes(buddy, report_order, node)


def by_order(buddy: BuddyInfo, node: int | None = None) -> tuple[int, ...]:
    """Return the free bytes in blocks of exactly each order, over the zones of one node or of all."""
    totals = [0] * (max_order(buddy) + 1)
    for zone in buddy.zones:
        if node is None or zone.node == node:
            for order, count in enumerate(zone.counts):
                totals[order] += (count << order) * buddy.page_size_bytes
    return tuple(totals)


def max_order(buddy: BuddyInfo) -> int:
    """Return the largest order that the allocator keeps, which is the largest useful report order."""
    return max([len(zone.counts) for zone in buddy.zones], default=1) - 1


def nodes(buddy: BuddyInfo) -> tuple[int, ...]:
    """Return the NUMA nodes that have a zone, in ascending order."""
    return tuple(sorted({zone.node for zone in buddy.zones}))


def _zone(line: bytes) -> ZoneBlocks:
    tokens = line.split()
    well_formed = (
        4 < len(tokens) <= 4 + ORDERS_LIMIT
        and tokens[0] == b"Node"
        and tokens[1].endswith(b",")
        and tokens[2] == b"zone"
    )
    if not well_formed:
        raise KernelFileError(PATH, f"not a line of free blocks: {quoted(line)}")
    return ZoneBlocks(
        number(PATH, "node", tokens[1][:-1], 1 << 16),
        text(tokens[3]),
        tuple([number(PATH, "free blocks", token, _FREE_BLOCKS_LIMIT) for token in tokens[4:]]),
    )
