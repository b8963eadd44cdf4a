"""The exact ledger: each guest page's use joined with whether the host holds it.

The guest sends runs of like pages (`giveback_agent.kernel.kpageflags`), the host reads the pagemap
of the RAM mapping; guest addresses become addresses in the VMM by the layout that QEMU tells.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from giveback.errors import InputError, VmError
from giveback.host import pagemap
from giveback.text import size
from giveback.vmm import answers
from giveback_agent.kernel import kpageflags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.exact_ages import Ages
    from giveback.observe import Observation

RUNS_LIMIT_BYTES = 64 << 20
"""Runs of a TiB of alternating pages are larger; such a guest is refused."""
MAX_ORDER = 10
UNKNOWN = ord("?")
_RUN = re.compile(rb"([A-Z])(\d{1,12})")
LABELS = {
    kpageflags.FREE: "free",
    kpageflags.ANON: "anonymous",
    kpageflags.SHMEM: "shared memory and tmpfs",
    kpageflags.DIRTY: "page cache, dirty",
    kpageflags.CACHE: "page cache, clean",
    kpageflags.SLAB: "slab",
    kpageflags.TABLE: "page tables",
    kpageflags.OFFLINE: "ballooned or offline",
    kpageflags.RESERVED: "reserved",
    kpageflags.HUGE: "guest huge page pool",
    kpageflags.HOLE: "RAM that the guest's kernel does not use",
    kpageflags.OTHER: "kernel, or free on per-CPU lists",
    UNKNOWN: "unattributed: RAM at no guest address that is known",
}
Classes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ExactRow:
    """Bytes of one use, by where the host has them."""

    label: str
    resident_bytes: int
    swapped_bytes: int
    absent_bytes: int

    @property
    def ram_bytes(self) -> int:
        return self.resident_bytes + self.swapped_bytes + self.absent_bytes


@dataclass(frozen=True, slots=True)
class Exact:
    """The whole of RAM by use; of what is free, the same by block order."""

    rows: tuple[ExactRow, ...]
    free_by_order: tuple[ExactRow, ...]
    free_resident_since: tuple[tuple[float, int], ...] = ()
    """(seconds, bytes): free and resident at every look for so long; only once there were two."""

    @property
    def resident_bytes(self) -> int:
        return sum(row.resident_bytes for row in self.rows)

    @property
    def ram_bytes(self) -> int:
        return sum(row.ram_bytes for row in self.rows)

    @property
    def residue_bytes(self) -> int:
        """Free in the guest, resident here: measured, page by page."""
        return sum(row.resident_bytes for row in self.free_by_order)

    def text(self) -> str:
        """Both tables."""
        head = f"{'page by page':<52} {'RAM':>9} {'resident':>9} {'swapped':>9} {'absent':>9}"
        lines = [head, *(_line(row) for row in self.rows)]
        lines += [f"{'of what is free, in blocks of':<52}", *(_line(r) for r in self.free_by_order)]
        if self.free_resident_since:
            lines.append("of what is free and resident, seen so at every look for at least")
            lines += [f"  {f'{s:.0f} s':<62} {size(b):>7}" for s, b in self.free_resident_since]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """All amounts in bytes."""
        names = ("label", "resident_bytes", "swapped_bytes", "absent_bytes")
        return {
            "ram_bytes": self.ram_bytes,
            "resident_bytes": self.resident_bytes,
            "residue_bytes": self.residue_bytes,
            "rows": [{n: getattr(row, n) for n in names} for row in self.rows],
            "free_by_order": [{n: getattr(row, n) for n in names} for row in self.free_by_order],
            "free_resident_since": [
                {"at_least_s": s, "resident_bytes": b} for s, b in self.free_resident_since
            ],
        }


def _line(row: ExactRow) -> str:
    parts = (row.ram_bytes, row.resident_bytes, row.swapped_bytes, row.absent_bytes)
    return f"  {row.label:<50} " + " ".join(f"{size(part):>9}" for part in parts)


def decode(text: str, pages_limit: int) -> Classes:
    """The guest's runs as one class a page frame, from frame 0; at most `pages_limit` are kept.

    Raises InputError for what is none: it comes from a guest, and a lie must not fill our memory.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        opened = zlib.decompressobj()
        runs = opened.decompress(packed, RUNS_LIMIT_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise InputError(f"the guest's pages are not readable: {error}") from error
    if opened.unconsumed_tail or not opened.eof:
        raise InputError(f"the guest's pages are cut, or more than {RUNS_LIMIT_BYTES} bytes")
    found = _RUN.findall(runs)
    if sum(len(letter) + len(count) for letter, count in found) != len(runs):
        raise InputError("the guest's pages are no runs such as F512A3")
    letters = np.frombuffer(b"".join(letter for letter, _ in found), dtype=np.uint8)
    counts = np.array([min(int(count), pages_limit) for _, count in found], dtype=np.int64)
    ends = np.minimum(np.cumsum(counts), pages_limit)
    return np.repeat(letters, np.diff(ends, prepend=0))


def orders(classes: Classes) -> npt.NDArray[np.int8]:
    """The order of the free block that each page lies in, -1 for pages that are not free.

    Blocks are the largest aligned ones: that is how the buddy allocator joins what is free.
    """
    free = classes == kpageflags.FREE
    result = np.full(len(classes), -1, dtype=np.int8)
    for order in range(MAX_ORDER, -1, -1):
        pages = 1 << order
        whole = len(classes) // pages * pages
        open_ = (free[:whole] & (result[:whole] < 0)).reshape(-1, pages).all(axis=1)
        result[:whole].reshape(-1, pages)[open_] = order
    return result


def join_states(classes: Classes, states: pagemap.States) -> Exact:
    """Join two arrays of equal length, a page each. Pure."""
    page = pagemap.PAGE_BYTES
    table = np.bincount(classes.astype(np.intp) * 3 + states, minlength=256 * 3).reshape(256, 3)
    rows = tuple(
        _row(label, table[letter], page) for letter, label in LABELS.items() if table[letter].any()
    )
    found = orders(classes).astype(np.intp)
    free = found >= 0
    by_order = np.bincount(found[free] * 3 + states[free], minlength=(MAX_ORDER + 1) * 3)
    by_order = by_order.reshape(MAX_ORDER + 1, 3)
    return Exact(
        rows,
        tuple(
            _row(f"{size(page << order)} (order {order})", by_order[order], page)
            for order in range(MAX_ORDER + 1)
            if by_order[order].any()
        ),
    )


def _row(label: str, counts: npt.NDArray[np.intp], page: int) -> ExactRow:
    absent, present, swapped = (int(count) * page for count in counts)
    return ExactRow(label, present, swapped, absent)


def join_pages(
    seen: Observation, said: dict[str, object], ages: Ages | None = None, now_s: float = 0.0
) -> Exact:
    """The exact ledger of a VM whose guest said `said` (`giveback-agent picture --pages`).

    `ages` remembers the looks before this one. Raises InputError where the guest's pages are missing
    or unreadable, and VmError where it is not known which guest address lies where.
    """
    text = answers.text(said, "pages", 2 * RUNS_LIMIT_BYTES)
    if not text:
        raise InputError("the guest's file has no pages: run `giveback-agent picture --pages`")
    if not seen.state.layout:
        raise VmError(
            f"{seen.vm.name}: where guest addresses lie is not known: the VMM did not tell, and its "
            f"machine type ({seen.vm.machine or 'not given'}) has no layout that we know"
        )
    page = pagemap.PAGE_BYTES
    last = max(place.guest_start + place.size_bytes for place in seen.state.layout)
    classes = decode(text, last // page)
    classes = np.pad(classes, (0, last // page - len(classes)), constant_values=UNKNOWN)
    by_address: list[Classes] = []
    by_state: list[pagemap.States] = []
    for guest_start, host_start, length in _pieces(seen):
        first = guest_start // page
        by_address.append(classes[first : first + length // page])
        by_state.append(pagemap.read_states(seen.vm.pid, host_start, host_start + length))
    if not by_address:
        raise VmError(f"{seen.vm.name}: no RAM block was found in the VMM's address space")
    used, states = _with_hidden(seen, np.concatenate(by_address), np.concatenate(by_state))
    joined = join_states(used, states)
    if ages is None:
        return joined
    held = (used == kpageflags.FREE) & (states == pagemap.PRESENT)
    return replace(joined, free_resident_since=ages.look(held, now_s, page))


def _pieces(seen: Observation) -> Iterator[tuple[int, int, int]]:
    """(guest address, VMM address, bytes) of all RAM, in ascending guest address."""
    starts = {b.block.name: b.ranges[0] for b in seen.bound if len(b.ranges) == 1}
    for place in sorted(seen.state.layout, key=lambda p: p.guest_start):
        if place.block in starts:
            start, end = starts[place.block]
            host = start + place.block_offset
            yield place.guest_start, host, min(place.size_bytes, max(0, end - host))


def _with_hidden(
    seen: Observation, classes: Classes, states: pagemap.States
) -> tuple[Classes, pagemap.States]:
    """Add the pages of RAM that no guest address shows (QEMU hides some below 1 MiB)."""
    hidden_classes: list[Classes] = [classes]
    hidden_states: list[pagemap.States] = [states]
    for block in seen.bound:
        for start, end in block.ranges:
            all_states = pagemap.read_states(seen.vm.pid, start, end)
            mask = np.ones(len(all_states), dtype=bool)
            for _, host, length in _pieces(seen):
                if start <= host < end:
                    first = (host - start) // pagemap.PAGE_BYTES
                    mask[first : first + length // pagemap.PAGE_BYTES] = False
            hidden_states.append(all_states[mask])
            hidden_classes.append(np.full(int(mask.sum()), UNKNOWN, dtype=np.uint8))
    return np.concatenate(hidden_classes), np.concatenate(hidden_states)
