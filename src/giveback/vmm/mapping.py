"""Find the guest's RAM among the mappings of the VMM's process. Pure: blocks and mappings to ranges.

QEMU maps a block at an aligned address with a guard page after it. Other anonymous memory may adjoin it
at its start, so that the kernel merges both. mbind, mprotect and huge page advice split a block into
several mappings.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from giveback.vmm.base import Backing, RamBlock
from giveback_kernel.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Mapping as MappingOf

    from giveback.host.smaps import Mapping

_PIECES_LIMIT = 3
_CANDIDATES_LIMIT = 12
_GROUP_LIMIT = 64
_MERGED_LIMIT_BYTES = 64 * MIB
"""A run that is larger than the block by up to this may be the block, merged with other memory."""


@dataclass(frozen=True, slots=True)
class Run:
    """Adjoining mappings with the same backing: one range of memory."""

    mappings: tuple[Mapping, ...]

    @property
    def start(self) -> int:
        """First address."""
        return self.mappings[0].start

    @property
    def end(self) -> int:
        """Address after the last byte."""
        return self.mappings[-1].end

    @property
    def size_bytes(self) -> int:
        """Size of the whole run."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class BoundBlock:
    """A block and its place in the process: `ranges` of (start, end) in the block's order.

    `sure` is False if other memory fits the block as well, or if the sizes differ.
    """

    block: RamBlock
    ranges: tuple[tuple[int, int], ...]
    sure: bool


def groups(mappings: Iterable[Mapping], *, unplugged: bool = False) -> tuple[Run, ...]:
    """Join writable, non-executable mappings into runs if one continues the other.

    TCG's translation buffer is anonymous memory of up to one GiB, but executable: it is not RAM.
    `unplugged` includes mappings without any permission: Firecracker keeps the unplugged part of a
    region so (mprotect in GuestRegionMmapExt::update_slot).
    """
    result: list[list[Mapping]] = []
    for mapping in sorted(mappings, key=lambda m: m.start):
        usable = mapping.permissions.startswith(("rw-", "---") if unplugged else "rw-")
        if not usable or mapping.name in ("[heap]", "[stack]"):
            continue
        last = result[-1] if result else []
        if last and len(last) < _GROUP_LIMIT and _continues(last[-1], mapping, unplugged):
            result[-1].append(mapping)
        else:
            result.append([mapping])
    return tuple(Run(tuple(group)) for group in result)


def _continues(first: Mapping, second: Mapping, unplugged: bool) -> bool:
    alike = (first.device, first.inode, first.permissions[3:]) == (
        second.device,
        second.inode,
        second.permissions[3:],
    ) and (unplugged or first.permissions == second.permissions)
    joined = first.inode == 0 or second.offset_bytes == first.offset_bytes + first.size_bytes
    return first.end == second.start and alike and joined


def _runs(group: Run) -> Iterable[Run]:
    """Yield every run of mappings within a group: each of them could be a block."""
    count = len(group.mappings)
    for first in range(count):
        for last in range(first + 1, count + 1):
            yield Run(group.mappings[first:last])


def bind(
    blocks: Sequence[RamBlock],
    mappings: Iterable[Mapping],
    host_addresses: MappingOf[str, int] | None = None,
) -> tuple[BoundBlock, ...]:
    """Find each block's place; a block that is not found has no ranges.

    Blocks are matched by address if the VMM tells it, else by file name, else by size alone. A block may
    lie in up to three pieces: Cloud Hypervisor and Firecracker map RAM around the hole below 4 GiB.
    """
    mappings = tuple(mappings)
    free = [run for group in groups(mappings) for run in _runs(group)]
    parted: list[Run] = []
    if any(block.hotplug for block in blocks):
        parted = [run for group in groups(mappings, unplugged=True) for run in _runs(group)]
    addresses = host_addresses or {}
    bound = []
    for block in blocks:
        address = addresses.get(block.name)
        candidates = [*parted, *free] if block.hotplug else free
        found = _place(block, candidates)
        ranges = _ranges(block, found)
        is_ambiguous = any(found and _fits_as_well(block, run, found) for run in candidates)
        sure = bool(found) and not is_ambiguous and _length(ranges) == _length_of(found)
        if address is not None:
            ranges, sure = ((address, address + block.size_bytes),), True
        free, parted = (
            [run for run in runs if not any(_overlap(run, place) for place in ranges)]
            for runs in (free, parted)
        )
        bound.append(BoundBlock(block, ranges, sure))
    return tuple(bound)


def within(mappings: Iterable[Mapping], ranges: Sequence[tuple[int, int]]) -> tuple[Mapping, ...]:
    """Return the mappings of which at least half lies in one of `ranges`."""
    return tuple(m for m in mappings if any(_mostly_in(m, place) for place in ranges))


def _mostly_in(mapping: Mapping, place: tuple[int, int]) -> bool:
    inside = min(mapping.end, place[1]) - max(mapping.start, place[0])
    return 2 * inside >= mapping.size_bytes


def _overlap(run: Run, place: tuple[int, int]) -> bool:
    return run.start < place[1] and place[0] < run.end


def _fits_as_well(block: RamBlock, run: Run, found: Sequence[Run]) -> bool:
    elsewhere = all(not _overlap(run, (other.start, other.end)) for other in found)
    alike = _named_for(block, run) == _named_for(block, found[0])
    return elsewhere and alike and _fits(block, run) and _backed_like(block, run)


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges)


def _length_of(found: Sequence[Run]) -> int:
    return sum(run.size_bytes for run in found)


def _ranges(block: RamBlock, found: Sequence[Run]) -> tuple[tuple[int, int], ...]:
    if len(found) == 1:
        # Memory that the kernel merged with a block lies before it: after it is the guard page.
        return ((max(found[0].start, found[0].end - block.size_bytes), found[0].end),)
    return tuple((run.start, run.end) for run in found)


def _place(block: RamBlock, free: Sequence[Run]) -> Sequence[Run]:
    named = [run for run in free if _named_for(block, run)]
    unnamed = [run for run in free if _backed_like(block, run)]
    for candidates in (named, unnamed):
        # The kernel places mappings from the top of the address space down: the first block lies highest.
        fitting = [run for run in reversed(candidates) if _fits(block, run)]
        if fitting:
            return fitting[:1]
    for candidates in (named, unnamed):
        pieces = _pieces(block, candidates)
        if pieces:
            return pieces
    near = [run for run in unnamed if 0 < run.size_bytes - block.size_bytes <= _MERGED_LIMIT_BYTES]
    return sorted(near, key=lambda run: run.size_bytes)[:1]


def _pieces(block: RamBlock, candidates: Sequence[Run]) -> Sequence[Run]:
    largest = sorted(candidates, key=lambda run: -run.size_bytes)[:_CANDIDATES_LIMIT]
    for count in range(2, _PIECES_LIMIT + 1):
        for group in combinations(largest, count):
            if _length_of(group) == block.size_bytes and not _touching(group):
                return sorted(group, key=lambda run: (run.mappings[0].offset_bytes, run.start))
    return ()


def _touching(group: Sequence[Run]) -> bool:
    return any(_overlap(a, (b.start, b.end)) for a, b in combinations(group, 2))


def _fits(block: RamBlock, run: Run) -> bool:
    return run.size_bytes == block.size_bytes


def _named_for(block: RamBlock, run: Run) -> bool:
    name = run.mappings[0].name
    if block.path:
        return name.removesuffix(" (deleted)") == block.path or name.startswith(
            block.path.rstrip("/") + "/"
        )
    if block.backing in (Backing.MEMFD, Backing.HUGETLB):
        return name.startswith("/memfd:")
    return not name and not block.shared


def _backed_like(block: RamBlock, run: Run) -> bool:
    """Compare the backing alone. A shared anonymous block is a file to the kernel (/dev/zero, memfd).

    If the backing is unknown, anonymous memory is tried first (`_named_for`).
    """
    if block.backing is Backing.ANONYMOUS and not block.shared:
        return run.mappings[0].inode == 0
    return True
