"""The exact ledger: the use of each guest page, joined with whether the host holds the page.

The guest sends runs of pages of one class (`giveback_kernel.kpageflags`). The host reads the pagemap of
the RAM mapping. `giveback.vmm.layout` translates guest addresses to addresses in the VMM.
"""

from __future__ import annotations

import base64
import os
import re
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from giveback.accounting.exact import Exact, ExactRow
from giveback.errors import InputError, VmError
from giveback.host import pagemap
from giveback.vmm import layout as layouts
from giveback.vmm.clients import answers
from giveback_kernel import kpageflags
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from giveback.accounting.observation import Observation
    from giveback.vmm.layout import Placement

RUNS_LIMIT_BYTES = 64 << 20
"""Limit of the unpacked runs. A TiB of alternating pages would need more; such a guest is refused."""
_PIECE_BYTES = 256 << 10
_RUN_LIMIT_BYTES = 13
MAX_ORDER = 10
UNKNOWN = ord("?")
_RUN = re.compile(rb"([A-Z])(\d{1,12})")
_MISFIT_LIMIT = 0.1
"""A layout is refused if more than this part of the pages that the guest has written is not on the host."""
_WRITTEN = (kpageflags.ANON, kpageflags.SLAB, kpageflags.TABLE)
"""Classes of pages that the guest has certainly written to: the host has each resident or in swap."""
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
Orders = npt.NDArray[np.int8]


def decode(text: str, pages_limit: int) -> Classes:
    """Decode the guest's runs into an array with one class for each page frame, from frame 0.

    At most `pages_limit` frames are kept. The text comes from a guest, and must not be able to fill
    our memory. Raises InputError if it is malformed.
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InputError(f"the guest's pages are not readable: {error}") from error
    parts = [np.empty(0, dtype=np.uint8)]
    left = pages_limit
    for runs in _unpacked(packed):
        # Each run has at least one page: no more runs are decoded than there are pages.
        if left > 0:
            parts.append(_pages(runs, left))
            left -= len(parts[-1])
    return np.concatenate(parts)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    """Yield whole runs in pieces: splitting all runs at once would make gigabytes of objects."""
    opened = zlib.decompressobj()
    rest = b""
    size_bytes = 0
    while not opened.eof:
        try:
            piece = opened.decompress(packed, _PIECE_BYTES)
        except zlib.error as error:
            raise InputError(f"the guest's pages are not readable: {error}") from error
        packed = opened.unconsumed_tail
        size_bytes += len(piece)
        if size_bytes > RUNS_LIMIT_BYTES or not (piece or packed or opened.eof):
            raise InputError(f"the guest's pages are cut, or more than {RUNS_LIMIT_BYTES} bytes")
        whole = rest + piece
        end = max(0, len(whole.rstrip(b"0123456789")) - 1)
        rest = whole[end:]
        if len(rest) > _RUN_LIMIT_BYTES:
            break
        yield whole[:end]
    yield rest


def _pages(runs: bytes, pages_limit: int) -> Classes:
    """Return an array with one class for each page. Raises InputError if the runs are malformed."""
    found = _RUN.findall(runs)
    lengths = [min(int(count), pages_limit) for _, count in found]
    if sum(len(letter) + len(count) for letter, count in found) != len(runs) or 0 in lengths:
        raise InputError("the guest's pages are not runs such as F512A3")
    letters = np.frombuffer(b"".join(letter for letter, _ in found), dtype=np.uint8)
    ends = np.minimum(np.cumsum(np.array(lengths, dtype=np.int64)), pages_limit)
    return np.repeat(letters, np.diff(ends, prepend=0))


def orders(classes: Classes) -> Orders:
    """Return for each page frame the order of its free block; -1 if the page is not free.

    Blocks are the largest aligned ones, because the buddy allocator merges free pages so. `classes`
    must begin at frame 0.
    """
    free = classes == kpageflags.FREE
    result = np.full(len(classes), -1, dtype=np.int8)
    for order in range(MAX_ORDER, -1, -1):
        pages = 1 << order
        whole = len(classes) // pages * pages
        open_ = (free[:whole] & (result[:whole] < 0)).reshape(-1, pages).all(axis=1)
        result[:whole].reshape(-1, pages)[open_] = order
    return result


def join_states(classes: Classes, states: pagemap.States, blocks: Orders) -> Exact:
    """Count the pages of each class and state. Pure.

    The arrays have one element per page and equal lengths; `blocks` is what `orders` returns.
    """
    page = pagemap.PAGE_BYTES
    table = np.bincount(classes.astype(np.intp) * 3 + states, minlength=256 * 3).reshape(256, 3)
    rows = tuple(
        _row(label, table[letter], page) for letter, label in LABELS.items() if table[letter].any()
    )
    free = blocks >= 0
    by_order = np.bincount(
        blocks[free].astype(np.intp) * 3 + states[free], minlength=(MAX_ORDER + 1) * 3
    )
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
    seen: Observation,
    said: dict[str, object],
    ages: Ages | None = None,
    now_s: float = 0.0,
    machine: str = os.uname().machine,
) -> Exact:
    """Make the exact ledger of a VM from `said`, the guest's `giveback-agent picture --pages`.

    `ages` remembers earlier samples. Raises InputError if the guest's pages are missing or malformed,
    and VmError if the place of guest addresses in the VMM is not known.
    """
    text = answers.text(said, "pages", 2 * RUNS_LIMIT_BYTES)
    if not text:
        raise InputError("the guest's file has no pages: run `giveback-agent picture --pages`")
    page = pagemap.PAGE_BYTES
    if said.get("page_bytes", page) != page:
        raise InputError(f"the guest's pages are not of {page} bytes, as this host's are")
    ways = layouts.placements(seen.vm, seen.state, seen.bound, machine)
    if not ways:
        raise VmError(_unknown_layout(seen))
    last = max(place.guest_start + place.size_bytes for way in ways for place in way)
    frames = decode(text, min(last // page, kpageflags.PAGES_LIMIT))
    ranges = [place for block in seen.bound for place in block.ranges]
    states = np.concatenate([pagemap.read_states(seen.vm.pid, *place) for place in ranges])
    way = ways[0]
    notes: tuple[str, ...] = ()
    if not seen.state.layout:
        way, fit = fitting(ways, ranges, frames, states)
        notes = (f"guest addresses are assumed from {seen.vm.backend}'s published layout: {fit}",)
    used = arranged(way, ranges, frames, UNKNOWN)
    joined = join_states(used, states, arranged(way, ranges, orders(frames), -1))
    since: tuple[tuple[float, int], ...] = ()
    if ages is not None:
        held = (used == kpageflags.FREE) & (states == pagemap.PRESENT)
        since = ages.add_sample(held, now_s, page)
    return replace(joined, free_resident_since=since, notes=notes)


def _unknown_layout(seen: Observation) -> str:
    name = escape_for_terminal(seen.vm.name)
    if not any(block.ranges for block in seen.bound):
        return f"{name}: no RAM block was found in the VMM's address space"
    machine = escape_for_terminal(seen.vm.machine) or "not given"
    return (
        f"{name}: the place of guest addresses is not known: the VMM ({seen.vm.backend}, machine type "
        f"{machine}) did not tell its layout, and no known layout fits the RAM that was found"
    )


Page = TypeVar("Page", np.uint8, np.int8)


def arranged(
    way: Sequence[Placement],
    ranges: Sequence[tuple[int, int]],
    frames: npt.NDArray[Page],
    unknown: int,
) -> npt.NDArray[Page]:
    """Return the values of `frames` in the order of the VMM's `ranges`, one for each page. Pure.

    Pages without a guest address get `unknown` (QEMU hides some RAM below 1 MiB).
    """
    page = pagemap.PAGE_BYTES
    parts = []
    for start, end in ranges:
        part = np.full((end - start) // page, unknown, dtype=frames.dtype)
        for place in way:
            if start <= place.host_start < end:
                first, at = place.guest_start // page, (place.host_start - start) // page
                values = frames[first : first + place.size_bytes // page]
                part[at : at + len(values)] = values
        parts.append(part)
    return np.concatenate(parts)


def fitting(
    ways: Sequence[tuple[Placement, ...]],
    ranges: Sequence[tuple[int, int]],
    frames: Classes,
    states: pagemap.States,
) -> tuple[tuple[Placement, ...], str]:
    """Return the possible layout of RAM that fits the pages best, and a sentence how well it fits. Pure.

    The host has every page that the guest has written resident or in swap; in a wrong layout some such
    pages are absent. If all RAM is resident, every layout fits and gives the same result.
    Raises VmError if there are several layouts and none fits.
    """
    misfits = []
    for number, way in enumerate(ways):
        written = np.isin(arranged(way, ranges, frames, UNKNOWN), _WRITTEN)
        gone = int((written & (states == pagemap.ABSENT)).sum())
        misfits.append((gone / max(1, int(written.sum())), number))
    share, best = min(misfits)
    if share > _MISFIT_LIMIT and len(ways) > 1:
        raise VmError(
            f"no possible layout of the RAM fits: even in the best one {share:.0%} of the memory that the "
            "guest has written would not be resident"
        )
    others = "".join(f"; {other:.1%} in another layout" for other, n in misfits if n != best)
    return ways[
        best
    ], f"{share:.1%} of the memory that the guest has written is not resident{others}"


Mask = npt.NDArray[np.bool_]


class Ages:
    """The time since when each page has been free and resident, over several samples."""

    def __init__(self) -> None:
        self._since: npt.NDArray[np.float64] | None = None

    def add_sample(
        self, held: Mask, now_s: float, page_bytes: int
    ) -> tuple[tuple[float, int], ...]:
        """Add a sample; return pairs (seconds, bytes held for at least that long), the oldest last.

        `held` has one element per page: free and resident. The result is empty for the first sample,
        and if RAM has changed its size: then the count starts again.
        """
        before = self._since
        if before is None or len(before) != len(held):
            self._since = np.where(held, now_s, np.nan)
            return ()
        since = np.where(held, np.where(np.isnan(before), now_s, before), np.nan)
        self._since = since
        starts, counts = np.unique(since[held], return_counts=True)
        at_least = np.cumsum(counts)
        found = [
            (float(now_s - start), int(count) * page_bytes)
            for start, count in zip(starts, at_least, strict=True)
        ]
        return tuple(reversed(found))
