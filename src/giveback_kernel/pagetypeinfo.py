"""/proc/pagetypeinfo, for root only: the page block order, and free blocks per migrate type.

The kernel walks every free list under the zone lock to print it, so it is read once, never in a
loop. A list longer than 100,000 blocks is printed as `>100000` (commit 93b3a674485f). Source:
pagetypeinfo_show() in mm/vmstat.c.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.buddyinfo import ORDERS_LIMIT
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, quoted, text
from giveback_kernel.record import Record

PATH = "/proc/pagetypeinfo"
_BLOCKS_LIMIT = 1 << 53


class MigrateTypeBlocks(Record):
    """Free blocks of one migrate type: `counts[order]`, lower bounds if `overflowed`."""

    node: int
    zone: str
    migrate_type: str
    counts: tuple[int, ...]
    overflowed: bool = False


class PageTypeInfo(Record):
    """`page_block_order` is the report order of a kernel without an explicit one."""

    page_block_order: int
    pages_per_block: int
    free: tuple[MigrateTypeBlocks, ...]


def parse(data: bytes) -> PageTypeInfo:
    """Parse the text of /proc/pagetypeinfo.

    Raises KernelFileError if the page block order is missing or a line of free blocks is invalid.
    """
    order = pages = None
    free = []
    for line in data.split(b"\n")[:-1]:
        if line.startswith(b"Page block order:"):
            order = number(PATH, "Page block order", line[17:].strip(), ORDERS_LIMIT)
        elif line.startswith(b"Pages per block:"):
            pages = number(PATH, "Pages per block", line[16:].strip(), 1 << ORDERS_LIMIT)
        elif line.startswith(b"Node ") and b", type " in line:
            free.append(_blocks(line))
    if order is None or pages is None:
        raise KernelFileError(PATH, "has no page block order")
    return PageTypeInfo(order, pages, tuple(free))


def read_pagetypeinfo(root: str = "/") -> PageTypeInfo | None:
    """Read /proc/pagetypeinfo under `root`; None if it is missing or this user may not read it.

    Raises KernelFileError for any other failure, and for invalid text.
    """
    data = files.read_if_permitted(root, PATH)
    return None if data is None else parse(data)


def _blocks(line: bytes) -> MigrateTypeBlocks:
    head, _, tail = line.partition(b", type ")
    place = head.split()
    words = tail.split()
    if len(place) != 4 or place[2] != b"zone" or not 1 < len(words) <= 1 + ORDERS_LIMIT:
        raise KernelFileError(PATH, f"not a line of free blocks: {quoted(line)}")
    return MigrateTypeBlocks(
        number(PATH, "node", place[1].rstrip(b","), 1 << 16),
        text(place[3]),
        text(words[0]),
        tuple([number(PATH, "blocks", word.lstrip(b">"), _BLOCKS_LIMIT) for word in words[1:]]),
        b">" in tail,
    )
