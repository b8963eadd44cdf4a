"""/proc/kpageflags: the use of each page of the guest, as runs of like pages.

Needs root. For one-off commands and answers: `runs` imports `re`, which the service does not hold
in memory. Source: fs/proc/page.c, include/uapi/linux/kernel-page-flags.h,
admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import os

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/proc/kpageflags"
PAGES_LIMIT = 1 << 28
"""1 TiB of 4 KiB pages: what lies beyond is not read."""
_CHUNK_PAGES = 1 << 16

FREE, ANON, SHMEM, DIRTY, CACHE, SLAB, TABLE, OFFLINE, RESERVED, HUGE, HOLE, OTHER = b"FAMDCSTORHNK"
"""One letter a class. OTHER is any other kernel page, and the free ones on per-CPU lists."""

_DIRTY, _LRU, _SLAB, _WRITEBACK, _BUDDY = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 10
_ANON, _SWAPBACKED, _HUGE, _HWPOISON, _NOPAGE = 1 << 12, 1 << 14, 1 << 17, 1 << 19, 1 << 20
_OFFLINE, _PGTABLE, _RESERVED = 1 << 23, 1 << 26, 1 << 32
_LITTLE = memoryview(b"\1\0").cast("H")[0] == 1


def classify(flags: int) -> int:
    """Return the class of a page with these flags, as one of this module's letters."""
    for mask, letter in (
        (_NOPAGE | _HWPOISON, HOLE),
        (_BUDDY, FREE),
        (_OFFLINE, OFFLINE),
        (_HUGE, HUGE),
        (_ANON, ANON),
        (_SLAB, SLAB),
        (_PGTABLE, TABLE),
    ):
        if flags & mask:
            return letter
    if flags & _LRU:
        if flags & _SWAPBACKED:
            return SHMEM
        return DIRTY if flags & (_DIRTY | _WRITEBACK) else CACHE
    return RESERVED if flags & _RESERVED else OTHER


def _table(bits: dict[int, int]) -> bytes:
    """Return a translation of one byte of flags: each set bit adds its value."""
    return bytes([sum([v for bit, v in bits.items() if byte >> bit & 1]) for byte in range(256)])


# Pages are classified by whole columns of bytes, in C: 20 times faster than page by page. The low
# two bytes of flags become a code below 8, the next three one below 16, and both one class.
_LOW = (_table({4: 1, 5: 2, 7: 4}), _table({0: 1, 2: 8, 4: 16, 6: 32}))
_HIGH = (_table({1: 4, 3: 1, 4: 1, 7: 2}), _table({2: 8}), _table({0: 16}))
_LOW_FLAGS = ((8, _BUDDY), (16, _ANON), (4, _SLAB))
_HIGH_FLAGS = ((1, _NOPAGE), (2, _OFFLINE), (4, _HUGE), (8, _PGTABLE))


def _low_code(bits: int) -> int:
    for code, (bit, _) in enumerate(_LOW_FLAGS, 1):
        if bits & bit:
            return code
    if bits & 2:
        return 4 if bits & 32 else 5 if bits & 1 else 6
    return 0


def _high_code(bits: int) -> int:
    code = 0
    for number, (bit, _) in enumerate(_HIGH_FLAGS, 1):
        # No page has two of these; the first would count, as in `classify`.
        if bits & bit and not code:
            code = number
    return code << 4 | (128 if bits & 16 else 0)


def _class_of(code: int) -> int:
    low = (0, _BUDDY, _ANON, _SLAB, _LRU | _SWAPBACKED, _LRU | _DIRTY, _LRU, 0)[code & 7]
    high = code >> 4 & 7
    flags = _HIGH_FLAGS[high - 1][1] if 0 < high <= len(_HIGH_FLAGS) else 0
    return classify(low | flags | (_RESERVED if code & 128 else 0))


_LOW_CODES = bytes([_low_code(bits & 63) for bits in range(256)])
_HIGH_CODES = bytes([_high_code(bits & 31) for bits in range(256)])
_LETTERS = bytes([_class_of(code) for code in range(256)])


def classes(data: bytes) -> bytes:
    """Return one letter per page for raw entries (8 bytes a page, native order)."""
    count = len(data) // 8
    columns = range(5) if _LITTLE else range(7, 2, -1)
    parts = [data[column : count * 8 : 8] for column in columns]
    low = _joined(parts[:2], _LOW, count).translate(_LOW_CODES)
    high = _joined(parts[2:], _HIGH, count).translate(_HIGH_CODES)
    both = int.from_bytes(low, "big") | int.from_bytes(high, "big")
    return both.to_bytes(count, "big").translate(_LETTERS)


def _joined(parts: list[bytes], tables: tuple[bytes, ...], count: int) -> bytes:
    value = 0
    for part, table in zip(parts, tables):
        value |= int.from_bytes(part.translate(table), "big")
    return value.to_bytes(count, "big")


def runs(letters: bytes) -> list[tuple[int, int]]:
    """Join like pages: (class, pages), in order."""
    import re

    alike = re.compile(rb"(.)\1*", re.DOTALL)
    return [(match.group(1)[0], match.end() - match.start()) for match in alike.finditer(letters)]


def encode(found: list[tuple[int, int]]) -> bytes:
    """Write runs as text: `F512A3C20`."""
    return b"".join([b"%c%d" % run for run in found])


def read_chunks(root: str = "/", pages_limit: int = PAGES_LIMIT) -> Iterator[list[tuple[int, int]]]:
    """Read all page flags under `root` from page frame 0 on, 65536 pages at a time to bound the memory.

    A run may continue in the next chunk. Raises KernelFileError.
    """
    path = files.under(root, PATH)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            position = 0
            while position < pages_limit:
                data = os.pread(fd, min(_CHUNK_PAGES, pages_limit - position) * 8, position * 8)
                if len(data) < 8:
                    break
                yield runs(classes(data))
                position += len(data) // 8
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error
