"""Update a VM's host snapshot from the sums of its process; decide when to read its mappings again. Pure.

To read `/proc/PID/smaps` the kernel walks every page table of the VM: milliseconds for a small VM, tens
of milliseconds for a large one. `/proc/PID/status` takes 10 µs. Its sums show by how much memory has
changed since the mappings were read. So each sample reads the sums. The mappings are read when the sums
have changed much, or every five minutes. Source: Linux Documentation/filesystems/proc.rst.
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
_TIME_DIVISOR = 100
"""Reading mappings takes at most a hundredth of the time, however large the VM is."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The sums of one process in `/proc/PID/status`."""

    rss_bytes: int
    swap_bytes: int = 0
    hugetlb_bytes: int = 0
    page_tables_bytes: int = 0
    peak_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        """Rss plus hugetlb pages, which Rss does not include."""
        return self.rss_bytes + self.hugetlb_bytes


@dataclass(frozen=True, slots=True)
class Mappings:
    """The snapshot read from the mappings, the sums at that time, and the seconds that reading took."""

    snapshot: HostSnapshot
    counts: Counts
    at_s: float
    took_s: float


def base(snapshot: HostSnapshot, before: Counts, after: Counts) -> Counts:
    """Return the sums that belong to a snapshot, from the sums before and after it was read. Pure.

    If the two differ by more than 1 MiB, memory changed while the mappings were read. Then the snapshot's
    own sums are returned, so that the change is not missed permanently. Otherwise the kernel's sums are:
    they lack what single CPUs have not added yet, but so will the next ones.
    """
    moved = abs(after.resident_bytes - before.resident_bytes)
    swapped = abs(after.swap_bytes - before.swap_bytes)
    if max(moved, swapped) <= _SAME_BYTES:
        return after
    return replace(
        after,
        rss_bytes=max(0, snapshot.resident_bytes - after.hugetlb_bytes),
        swap_bytes=snapshot.ram_swap_bytes + snapshot.own_swap_bytes,
    )


def carried(mappings: Mappings, now: Counts, ram_bytes: int) -> HostSnapshot:
    """Return the snapshot of the mappings, updated to the present sums. Pure.

    The whole change is attributed to guest RAM, up to its size: a VMM's own memory hardly changes. The
    result's sums are exact; its split is as old as the mappings.
    """
    before = mappings.snapshot
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
    """Return `amount`, a part of `before`, scaled in proportion to `now`."""
    return min(now, amount * now // before) if before else 0


def held_bytes(mappings: Mappings | None, now: Counts, ram_bytes: int) -> int:
    """Return the bytes that the host would have again without this process: resident, not shared. Pure.

    A VM is judged by this number. If a process maps the same memory many times and then unmaps it, no
    memory was returned.
    """
    if mappings is None:
        return now.resident_bytes
    return carried(mappings, now, ram_bytes).held_bytes


def _shifted(ram: int, own: int, moved: int, ram_limit: int) -> tuple[int, int]:
    """Return RAM and own bytes after a change of their sum: RAM takes what fits, own memory the rest."""
    after = min(max(0, ram + moved), max(ram, ram_limit))
    return after, max(0, own + moved - (after - ram))


def must_read_mappings(mappings: Mappings | None, now: Counts, now_s: float) -> bool:
    """Return whether the mappings must be read again, because the sums changed much or are old. Pure."""
    if mappings is None:
        return True
    age_s = now_s - mappings.at_s
    if age_s < mappings.took_s * _TIME_DIVISOR:
        return False
    before = mappings.counts
    moved = abs(now.resident_bytes - before.resident_bytes)
    swapped = abs(now.swap_bytes - before.swap_bytes)
    worth = max(_MOVED_LEAST_BYTES, before.resident_bytes // _MOVED_DIVISOR)
    return max(moved, swapped) > worth or age_s > _MAPPINGS_AGE_S
