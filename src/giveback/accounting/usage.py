"""The two pictures that the ledger joins: what the host charges, and what the guest says.

A guest's numbers are bounded here and nowhere else: `checked` refuses a picture that
cannot be. All amounts are bytes; None is what that source does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.vmm.base import BYTES_LIMIT, BalloonStatistics
from giveback_kernel import buddyinfo, huge_pages, meminfo, page_reporting
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from giveback.accounting.cgroups import GuestCgroup

STALE_S = 60.0
"""Guest numbers older than this are not joined with the host's of now."""
UNWATCHED_S = 10.0
"""The same, where nobody has watched whether resident memory has moved since."""
MOVED_LEAST_BYTES, MOVED_DIVISOR = 64 << 20, 16
"""Resident memory that moved by more than this, and by this part of RAM, belongs to other numbers."""


def is_outdated(moved_bytes: int, ram_bytes: int) -> bool:
    """Tell whether resident memory has moved too far since a report for it to be joined with the host's."""
    return moved_bytes > max(MOVED_LEAST_BYTES, ram_bytes // MOVED_DIVISOR)


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """What a VM costs the host. `ram_…` is the guest's RAM mapping, `own_…` the rest of the VMM."""

    ram_resident_bytes: int
    ram_swap_bytes: int = 0
    ram_pss_bytes: int = 0
    ram_shared_bytes: int = 0
    """Resident RAM that other mappings hold, too: the host has no more when this one lets it go.

    One page that a process maps 64 times is resident 64 times, and 63 of them are here."""
    ram_huge_bytes: int = 0
    ram_locked_bytes: int = 0
    ram_ksm_bytes: int = 0
    ram_page_bytes: int = 4096
    """The largest pages of which the kernel makes a part of it: hugetlb pages, or small ones."""
    ram_thp_eligible: bool | None = None
    """Whether a part of it may be made of transparent huge pages; None where it is not told."""
    own_resident_bytes: int = 0
    own_pss_bytes: int = 0
    own_swap_bytes: int = 0
    page_tables_bytes: int = 0
    peak_resident_bytes: int = 0
    """VmHWM of the whole process: it held at least this much once."""
    sure: bool = True
    """False where which mapping is the RAM had to be guessed."""
    placed: bool = True
    """False where some of the RAM was not found among the mappings: it is then in `own_…`."""

    @property
    def ram_held_bytes(self) -> int:
        """Resident RAM that the host would have again: shared memory counts for its part (Pss)."""
        return max(0, self.ram_resident_bytes - self.ram_shared_bytes)

    @property
    def resident_bytes(self) -> int:
        return self.ram_resident_bytes + self.own_resident_bytes

    @property
    def charged_bytes(self) -> int:
        """What the host charges: resident, swapped out, and the page tables for it."""
        swap = self.ram_swap_bytes + self.own_swap_bytes
        return self.resident_bytes + swap + self.page_tables_bytes


class GuestSource(StrEnum):
    """Who told the guest's side."""

    AGENT = "agent"
    GUEST_AGENT = "qemu-guest-agent"
    BALLOON = "balloon statistics"
    FILE = "file"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class GuestSnapshot:
    """What the guest says of its memory, from /proc/meminfo and /proc/buddyinfo or less."""

    source: GuestSource = GuestSource.NONE
    age_s: float | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    available_bytes: int | None = None
    anon_bytes: int | None = None
    shmem_bytes: int | None = None
    cache_bytes: int | None = None
    """Page cache with buffers, without shmem."""
    dirty_bytes: int | None = None
    """The part of it that must be written first."""
    cold_cache_bytes: int | None = None
    moved_bytes: int | None = None
    """By how much resident memory has moved since these numbers were given; None: nobody watched."""
    would_take_bytes: int | None = None
    """Cache that a pass of its agent would take at urgency 1; None: no agent tells it."""
    cache_floor_bytes: int | None = None
    """Cache that its agent leaves the guest in any case, as its settings say."""
    learned_floor_bytes: int | None = None
    """Cache that looks cold and that the guest's agent keeps at urgency 1: refaults showed its use."""
    slab_reclaimable_bytes: int | None = None
    slab_unreclaimable_bytes: int | None = None
    kernel_bytes: int | None = None
    """vmalloc (kernel stacks are in it), page tables and per-CPU memory."""
    pcp_bytes: int | None = None
    """Free, on per-CPU lists: not in `free_bytes`."""
    compressed_swap_bytes: int | None = None
    hugetlb_bytes: int | None = None
    swap_total_bytes: int | None = None
    free_by_order: tuple[int, ...] = ()
    """Free bytes in blocks of each order."""
    report_order: int | None = None
    reporting: bool | None = None
    cgroups: tuple[GuestCgroup, ...] = ()
    """By service and container, where that was asked for."""
    problems: tuple[str, ...] = field(default_factory=tuple)
    agent_is_there: bool = False
    """Whether an agent answered that it gives no numbers just now: these are somebody else's, or none."""

    @property
    def returnable_cold_bytes(self) -> int:
        """Cold cache that a pass would take: by its agent's own word, which knows what it keeps."""
        if self.would_take_bytes is not None:
            return self.would_take_bytes
        return max(0, (self.cold_cache_bytes or 0) - (self.learned_floor_bytes or 0))

    @property
    def reportable_bytes(self) -> int | None:
        """Free bytes in blocks of the report order and above."""
        if self.report_order is None or not self.free_by_order:
            return None
        return sum(self.free_by_order[self.report_order :])

    @property
    def trapped_bytes(self) -> int | None:
        """Free bytes in smaller blocks."""
        if self.report_order is None or not self.free_by_order:
            return None
        return sum(self.free_by_order[: self.report_order])


NO_GUEST = GuestSnapshot()


def from_kernel_files(
    meminfo_text: bytes,
    buddyinfo_text: bytes | None,
    source: GuestSource,
    *,
    age_s: float | None = None,
    report_order: int | None = None,
    reporting: bool | None = None,
    page_bytes: int = 4096,
    pcp_bytes: int | None = None,
    compressed_swap_bytes: int | None = None,
) -> GuestSnapshot:
    """A picture from the guest's own /proc/meminfo and /proc/buddyinfo.

    What does not parse becomes a problem of the picture, never an error: it is the guest's fault.
    """
    try:
        info = meminfo.plausible(meminfo.parse(meminfo_text))
        buddy = buddyinfo.parse(buddyinfo_text, page_bytes) if buddyinfo_text else None
    except KernelFileError as error:
        return GuestSnapshot(source, age_s, problems=(f"the guest's {error}",))
    # Kernel stacks are made by vmalloc on all but a few old architectures: not counted twice.
    stacks = max(info.kernel_stack_bytes or 0, _kib_line(meminfo_text, b"VmallocUsed"))
    tables = (info.page_tables_bytes or 0) + _kib_line(meminfo_text, b"SecPageTables")
    orders = buddyinfo.by_order(buddy) if buddy is not None else ()
    return checked(
        GuestSnapshot(
            source=source,
            age_s=age_s,
            total_bytes=info.mem_total_bytes,
            free_bytes=info.mem_free_bytes,
            available_bytes=info.mem_available_bytes,
            anon_bytes=info.anon_pages_bytes,
            shmem_bytes=info.shmem_bytes,
            cache_bytes=max(0, info.cached_bytes + info.buffers_bytes - info.shmem_bytes),
            dirty_bytes=info.dirty_bytes + info.writeback_bytes,
            cold_cache_bytes=max(
                0, info.inactive_file_bytes - info.dirty_bytes - info.writeback_bytes
            ),
            slab_reclaimable_bytes=info.s_reclaimable_bytes,
            slab_unreclaimable_bytes=info.s_unreclaim_bytes,
            kernel_bytes=stacks + tables + (info.percpu_bytes or 0),
            pcp_bytes=pcp_bytes,
            compressed_swap_bytes=compressed_swap_bytes,
            hugetlb_bytes=info.hugetlb_bytes,
            swap_total_bytes=info.swap_total_bytes,
            free_by_order=orders,
            report_order=_report_order(report_order, info.hugepagesize_bytes, buddy, page_bytes),
            reporting=reporting,
            problems=tuple([f"the guest's {remark}" for remark in info.remarks]),
        )
    )


def _report_order(
    parameter: int | None,
    hugepagesize_bytes: int | None,
    buddy: buddyinfo.BuddyInfo | None,
    page_bytes: int,
) -> int | None:
    """Return the order that reporting starts from; None where neither parameter nor blocks tell.

    `parameter` is page_reporting_order: negative where it is unset, None where there is none.
    """
    if buddy is None:
        return None if parameter is None or parameter < 0 else parameter
    largest = buddyinfo.max_order(buddy)
    pageblock_order = huge_pages.pageblock_order(hugepagesize_bytes, page_bytes, largest)
    return page_reporting.effective_order(parameter, pageblock_order)


def _kib_line(meminfo_text: bytes, name: bytes) -> int:
    """A line of /proc/meminfo in bytes, 0 where this kernel has none."""
    for line in meminfo_text.splitlines():
        words = line.split()
        if (
            len(words) == 3
            and words[0] == name + b":"
            and words[1].isdigit()
            and len(words[1]) < 16
        ):
            return int(words[1]) << 10
    return 0


def from_balloon(statistics: BalloonStatistics, now_s: float) -> GuestSnapshot:
    """A picture from balloon statistics: total, free, available, caches, and their age."""
    if statistics.updated_s == 0:
        return GuestSnapshot(problems=("balloon statistics: the guest has never given any",))
    updated_s = statistics.updated_s
    return checked(
        GuestSnapshot(
            source=GuestSource.BALLOON,
            age_s=None if updated_s is None else max(0.0, now_s - updated_s),
            total_bytes=statistics.total_bytes,
            free_bytes=statistics.free_bytes,
            available_bytes=statistics.available_bytes,
            cache_bytes=statistics.disk_caches_bytes,
        )
    )


def checked(guest: GuestSnapshot) -> GuestSnapshot:
    """The picture as it is, or one that only says why it cannot be believed."""
    for spec in fields(guest):
        value = getattr(guest, spec.name)
        amounts = value if isinstance(value, tuple) else (value,)
        if spec.name.endswith("_bytes") or spec.name == "free_by_order":
            for amount in amounts:
                if amount is not None and not 0 <= amount < BYTES_LIMIT:
                    return _refused(guest, f"{spec.name} of {amount} is absurd")
    if guest.report_order is not None and not 0 <= guest.report_order < 32:
        return _refused(guest, f"report order {guest.report_order} is absurd")
    total, free = guest.total_bytes, guest.free_bytes
    if total is not None and free is not None and free > total:
        return _refused(guest, f"free {free} of total {total} is absurd")
    return guest


def _refused(guest: GuestSnapshot, why: str) -> GuestSnapshot:
    return GuestSnapshot(problems=(*guest.problems, f"{guest.source}: {why}; not believed"))
