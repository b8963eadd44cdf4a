"""Another reader of a guest's memory: its struct pages, found in its RAM from outside.

It asks neither the guest nor its agent. The kernel's own notes for crash dumps (vmcoreinfo) lie in RAM
as text; they tell the page tables and the sections of the memory map, and these its free blocks.
Source: kernel/vmcore_info.c, arch/x86/kernel/vmcore_info_64.c, include/linux/mmzone.h (SPARSEMEM_EXTREME).
x86-64 only; RAM must lie in the file as in guest addresses, which it does below 2 GiB.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Words = npt.NDArray[np.uint64]

PAGE = 4096
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
ADDRESS = 0x000F_FFFF_FFFF_F000
ORDERS = 11


class GuestMemory:
    """The RAM file of a VM, read without allocating what is not there."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.size_bytes = os.fstat(self._fd).st_size
        self.info = self._vmcoreinfo()
        self._top = (
            self.number("SYMBOL(init_top_pgt)") - KERNEL_MAP + self.number("NUMBER(phys_base)")
        )
        self._levels = 5 if self.number("NUMBER(pgtable_l5_enabled)") else 4

    def close(self) -> None:
        os.close(self._fd)

    def number(self, key: str) -> int:
        """A value of vmcoreinfo: symbols are hexadecimal, numbers are not."""
        return int(self.info[key], 16 if key.startswith("SYMBOL") else 10)

    def _pieces(self) -> Iterator[bytes]:
        """All of RAM that is there, in pieces that overlap by a page."""
        position = 0
        while position < self.size_bytes:
            try:
                position = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(self._fd, position, os.SEEK_HOLE)
            while position < end:
                yield os.pread(self._fd, min(16 << 20, end - position) + PAGE, position)
                position += min(16 << 20, end - position)

    def _vmcoreinfo(self) -> dict[str, str]:
        for piece in self._pieces():
            for found in re.finditer(rb"OSRELEASE=[^\n\0]{1,64}\n", piece):
                text = (
                    piece[found.start() : found.start() + PAGE]
                    .split(b"\0")[0]
                    .decode("ascii", "replace")
                )
                pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
                if "SYMBOL(mem_section)" in pairs and "NUMBER(phys_base)" in pairs:
                    return pairs
        raise AssertionError("no vmcoreinfo in the guest's RAM")

    def _word(self, address: int) -> int:
        return int.from_bytes(os.pread(self._fd, 8, address), "little")

    def _physical(self, virtual: int) -> int | None:
        """Walk the guest's page tables."""
        table = self._top
        for level in range(self._levels - 1, -1, -1):
            shift = 12 + 9 * level
            entry = self._word(table + (virtual >> shift & 511) * 8)
            if not entry & 1:
                return None
            if level == 0 or entry & 0x80:
                low = (1 << shift) - 1
                return (entry & ADDRESS & ~low) | (virtual & low)
            table = entry & ADDRESS
        return None

    def read(self, virtual: int, length: int) -> bytes | None:
        """The guest's virtual memory, or None where a page of it is not mapped."""
        parts = []
        while length > 0:
            step = min(length, PAGE - virtual % PAGE)
            physical = self._physical(virtual)
            if physical is None:
                return None
            parts.append(os.pread(self._fd, step, physical))
            virtual, length = virtual + step, length - step
        return b"".join(parts)

    def _sections(self) -> Iterator[tuple[int, int]]:
        """(section, where page frame 0's struct page would lie if it went by this section)."""
        size = self.number("SIZE(mem_section)")
        each = PAGE // size
        offset = self.number("OFFSET(mem_section.section_mem_map)")
        sections = (self.size_bytes >> self.number("NUMBER(SECTION_SIZE_BITS)")) or 1
        roots = self.read(self.number("SYMBOL(mem_section)"), (sections // each + 1) * 8)
        assert roots is not None
        for section in range(sections):
            root = int.from_bytes(roots[section // each * 8 :][:8], "little")
            entry = self.read(root + section % each * size + offset, 8) if root else None
            if entry is not None and int.from_bytes(entry, "little") & 2:
                yield section, int.from_bytes(entry, "little") & ~0xFFF

    def free_orders(self) -> npt.NDArray[np.int8]:
        """The order of the free block that each page frame belongs to, -1 where it is in none."""
        size = self.number("SIZE(page)")
        pages = 1 << (self.number("NUMBER(SECTION_SIZE_BITS)") - 12)
        result = np.full(self.size_bytes // PAGE, -1, dtype=np.int8)
        for section, base in self._sections():
            raw = self.read(base + section * pages * size, pages * size)
            if raw is None:
                continue
            structs = np.frombuffer(raw, dtype=np.uint8).reshape(pages, size)
            kind = _column(structs, self.number("OFFSET(page._mapcount)"), "<u4")
            order = _column(structs, self.number("OFFSET(page.private)"), "<u8")
            heads = np.flatnonzero(
                _is_buddy(kind, self.number("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"))
            )
            for head in heads[order[heads] < ORDERS]:
                first = section * pages + int(head)
                result[first : first + (1 << int(order[head]))] = int(order[head])
        return result


def _column(structs: Bytes, offset: int, kind: str) -> Words:
    width = np.dtype(kind).itemsize
    column = np.ascontiguousarray(structs[:, offset : offset + width]).view(kind)[:, 0]
    return column.astype(np.uint64)


def _is_buddy(kinds: Words, value: int) -> npt.NDArray[np.bool_]:
    """PageBuddy(): since Linux 6.11 a type in the top byte, before a cleared bit among set ones."""
    value &= 0xFFFF_FFFF
    mask, wanted = 0xFF00_0000, value
    if value & 0x00FF_FFFF:
        mask, wanted = 0xF000_0000 | (~value & 0xFFFF_FFFF), 0xF000_0000
    return np.asarray((kinds & np.uint64(mask)) == np.uint64(wanted), dtype=bool)
