"""The page block order where no file states it: derived from the PMD size, not from the hugetlb size.

pageblock_order is min(the order of a PMD page, the largest order of the buddy allocator).
`Hugepagesize` of meminfo is the *default hugetlb* size, which the command line sets:
default_hugepagesz=1G, or 64K on arm64 (contiguous entries), does not change page blocks. Source:
include/linux/pageblock-flags.h, HPAGE_PMD_ORDER in include/linux/huge_mm.h,
Documentation/admin-guide/mm/hugetlbpage.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT

PMD_SIZE_PATH = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
# Entries of a page table take 8 bytes everywhere but on 32-bit machines.
_ENTRY_BYTES = 8
# s390 has half as many entries, and 32-bit x86 twice: a default hugetlb size this near is the PMD's.
_NEAR_ORDERS = 1


def read_pmd_size_bytes(root: str = "/") -> int | None:
    """Read the size of a transparent huge page under `root`, in bytes; None if it is not stated."""
    try:
        token = files.read(root, PMD_SIZE_PATH, 4096).strip()
    except KernelFileError:
        return None
    size = int(token) if token.isdigit() and len(token) <= 20 else 0
    return size if 0 < size < BYTES_LIMIT else None


def pmd_order(
    hugepagesize_bytes: int | None, page_size_bytes: int, pmd_size_bytes: int | None = None
) -> int:
    """Return the order of the page that a PMD entry maps; derived where `pmd_size_bytes` is unknown.

    A table of 8-byte entries in one page maps 2 MiB with pages of 4 KiB, 32 MiB with 16, 512 with 64.
    """
    told = _order(pmd_size_bytes, page_size_bytes)
    if told is not None:
        return told
    derived = (page_size_bytes // _ENTRY_BYTES).bit_length() - 1
    hugetlb = _order(hugepagesize_bytes, page_size_bytes)
    is_near = hugetlb is not None and abs(hugetlb - derived) <= _NEAR_ORDERS
    return hugetlb if hugetlb is not None and is_near else derived


def pageblock_order(
    hugepagesize_bytes: int | None,
    page_size_bytes: int,
    max_order: int | None = None,
    pmd_size_bytes: int | None = None,
) -> int | None:
    """Derive the page block order; `max_order` is the largest order of /proc/buddyinfo.

    A kernel without huge pages of either kind has blocks of `max_order`; None if that is unknown,
    too.
    """
    told = _order(pmd_size_bytes, page_size_bytes)
    if told is None and _order(hugepagesize_bytes, page_size_bytes) is None:
        return max_order
    order = pmd_order(hugepagesize_bytes, page_size_bytes, pmd_size_bytes)
    return order if max_order is None else min(order, max_order)


def _order(size_bytes: int | None, page_size_bytes: int) -> int | None:
    """Return the order of a size, or None if it is unknown or below a page."""
    if not size_bytes or size_bytes < page_size_bytes:
        return None
    return (size_bytes // page_size_bytes).bit_length() - 1
