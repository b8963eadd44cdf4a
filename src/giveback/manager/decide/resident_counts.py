"""What the sums of a VM's process tell, and when its mappings must be read again. Pure.

`/proc/PID/smaps` makes the kernel walk every page table of the VM: milliseconds for a small one,
tens of them for a large one. `/proc/PID/status` takes 10 µs, and its sums tell by how much memory
has changed since the mappings were read. So the sums are read at each look, the mappings only when
the sums have moved, or rarely. Source: Linux Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback.accounting.usage import HostSnapshot

MIB = 1 << 20
_MOVED_LEAST_BYTES = 32 * MIB
_MOVED_DIVISOR = 32
_MAPPINGS_AGE_S = 300.0
_SAME_BYTES = 1 * MIB
_SHARE_OF_TIME = 100
"""Mappings are read for at most a hundredth of the time, however large the VM is."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The sums of a process, as the kernel keeps them."""

    rss_bytes: int
    swap_bytes: int = 0
    hugetlb_bytes: int = 0
    page_tables_bytes: int = 0
    peak_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        """Rss, and the hugetlb pages which Rss leaves out."""
        return self.rss_bytes + self.hugetlb_bytes


@dataclass(frozen=True, slots=True)
class Mappings:
    """What the mappings said, with the sums of that moment, and what it took to read them."""

    picture: HostSnapshot
    counts: Counts
    at_s: float
    took_s: float


def base(picture: HostSnapshot, before: Counts, after: Counts) -> Counts:
    """The sums that belong to a picture which was read between two of them. Pure.

    Where they differ, memory came or went while the mappings were read: then the picture's own sums
    count, so that what has changed is not missed for good. Else the kernel's, which may be off by
    what its CPUs have not summed up yet, as the next ones will be.
    """
    moved = abs(after.resident_bytes - before.resident_bytes)
    swapped = abs(after.swap_bytes - before.swap_bytes)
    if max(moved, swapped) <= _SAME_BYTES:
        return after
    return replace(
        after,
        rss_bytes=max(0, picture.resident_bytes - after.hugetlb_bytes),
        swap_bytes=picture.ram_swap_bytes + picture.own_swap_bytes,
    )


def carried(mappings: Mappings, now: Counts, ram_bytes: int) -> HostSnapshot:
    """The picture of the mappings, brought to the sums of now. Pure.

    All that came or went since is taken for guest RAM, as far as RAM goes: what a VMM holds of its
    own hardly changes. The picture's sums are exact, its split is as old as the mappings.
    """
    before = mappings.picture
    moved = now.resident_bytes - mappings.counts.resident_bytes
    swapped = now.swap_bytes - mappings.counts.swap_bytes
    if not moved and not swapped:
        return before
    ram, own = _shifted(before.ram_resident_bytes, before.own_resident_bytes, moved, ram_bytes)
    ram_swap, own_swap = _shifted(
        before.ram_swap_bytes, before.own_swap_bytes, swapped, max(0, ram_bytes - ram)
    )
    return replace(
        before,
        ram_resident_bytes=ram,
        own_resident_bytes=own,
        ram_swap_bytes=ram_swap,
        own_swap_bytes=own_swap,
        ram_shared_bytes=_part_of(before.ram_shared_bytes, ram, before.ram_resident_bytes),
        ram_pss_bytes=max(0, before.ram_pss_bytes + ram - before.ram_resident_bytes),
        own_pss_bytes=max(0, before.own_pss_bytes + own - before.own_resident_bytes),
        page_tables_bytes=now.page_tables_bytes,
        peak_resident_bytes=now.peak_bytes + now.hugetlb_bytes,
    )


def _part_of(amount: int, now: int, before: int) -> int:
    """`amount` of what was `before`, in proportion to what there is now."""
    return min(now, amount * now // before) if before else 0


def held_bytes(mappings: Mappings | None, now: Counts, ram_bytes: int) -> int:
    """Return what the process holds that the host would have again without it. Pure.

    By this a VM is judged: what a process maps many times, and no longer does, is no memory returned.
    """
    if mappings is None:
        return now.resident_bytes
    return max(0, now.resident_bytes - carried(mappings, now, ram_bytes).ram_shared_bytes)


def _shifted(ram: int, own: int, moved: int, ram_limit: int) -> tuple[int, int]:
    """`moved` more (or less) in all: RAM takes what it can, the rest is the VMM's own."""
    after = min(max(0, ram + moved), max(ram, ram_limit))
    return after, max(0, own + moved - (after - ram))


def must_read_mappings(mappings: Mappings | None, now: Counts, now_s: float) -> bool:
    """Whether the sums no longer tell enough. Pure."""
    if mappings is None:
        return True
    age_s = now_s - mappings.at_s
    if age_s < mappings.took_s * _SHARE_OF_TIME:
        return False
    before = mappings.counts
    moved = abs(now.resident_bytes - before.resident_bytes)
    swapped = abs(now.swap_bytes - before.swap_bytes)
    worth = max(_MOVED_LEAST_BYTES, before.resident_bytes // _MOVED_DIVISOR)
    return max(moved, swapped) > worth or age_s > _MAPPINGS_AGE_S
