"""/proc/kpageflags: what each page of the guest is used for, as runs of like pages.

Source: fs/proc/page.c, include/uapi/linux/kernel-page-flags.h, admin-guide/mm/pagemap.rst. Needs
root. For one-off commands: it imports `re`, which the service does not hold in memory.
"""

from __future__ import annotations

import os
import re
from array import array

from giveback_agent import files
from giveback_agent.errors import KernelFileError

PATH = "/proc/kpageflags"
PAGES_LIMIT = 1 << 28
"""1 TiB of 4 KiB pages: what lies beyond is not read."""
_CHUNK_PAGES = 1 << 16

FREE, ANON, SHMEM, DIRTY, CACHE, SLAB, TABLE, OFFLINE, RESERVED, HUGE, HOLE, OTHER = b"FAMDCSTORHNK"
"""One letter a class. OTHER is any other kernel page, and the free ones on per-CPU lists."""

_DIRTY, _LRU, _SLAB, _WRITEBACK, _BUDDY = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 10
_ANON, _SWAPBACKED, _HUGE, _HWPOISON, _NOPAGE = 1 << 12, 1 << 14, 1 << 17, 1 << 19, 1 << 20
_OFFLINE, _PGTABLE, _RESERVED = 1 << 23, 1 << 26, 1 << 32
_RUN = re.compile(rb"(.)\1*", re.DOTALL)


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


class _Classes(dict):  # type: ignore[type-arg]
    """flags -> class, filled as flags are met: a guest has some dozens of combinations."""

    def __missing__(self, flags: int) -> int:
        letter = classify(flags)
        self[flags] = letter
        return letter


def classes(data: bytes, known: _Classes | None = None) -> bytes:
    """Return one letter a page for raw entries (8 bytes a page, native order)."""
    flags = array("Q")
    flags.frombytes(data[: len(data) // 8 * 8])
    table = _Classes() if known is None else known
    return bytes(map(table.__getitem__, flags))


def runs(letters: bytes) -> list[tuple[int, int]]:
    """Join like pages: (class, pages), in order."""
    return [(match.group(1)[0], match.end() - match.start()) for match in _RUN.finditer(letters)]


def encode(found: list[tuple[int, int]]) -> bytes:
    """Write runs as text: `F512A3C20`."""
    return b"".join([b"%c%d" % run for run in found])


def read_runs(root: str = "/", pages_limit: int = PAGES_LIMIT) -> list[tuple[int, int]]:
    """Read all page flags under `root`, from page frame 0 on. Raises KernelFileError."""
    path = files.under(root, PATH)
    known = _Classes()
    found: list[tuple[int, int]] = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            position = 0
            while position < pages_limit:
                data = os.pread(fd, min(_CHUNK_PAGES, pages_limit - position) * 8, position * 8)
                if len(data) < 8:
                    break
                _append(found, runs(classes(data, known)))
                position += len(data) // 8
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error
    return found


def _append(found: list[tuple[int, int]], more: list[tuple[int, int]]) -> None:
    if found and more and found[-1][0] == more[0][0]:
        letter, count = found.pop()
        more[0] = (letter, count + more[0][1])
    found.extend(more)
