"""The two snapshots that the ledger joins: the host's charge for a VM, and the guest's own numbers.

A guest's numbers are bounded here and nowhere else: `checked` refuses an impossible snapshot.
All amounts are bytes; None if the source does not give the number.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.vmm.base import BYTES_LIMIT, BalloonStatistics
from giveback_kernel import buddyinfo, huge_pages, meminfo, page_reporting
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from giveback.accounting.cgroups import GuestCgroup

STALE_S = 60.0
"""Guest numbers older than this are not joined with the host's current ones."""
UNWATCHED_S = 10.0
"""The same limit if it is not known whether resident memory has changed since."""
MOVED_LEAST_BYTES, MOVED_DIVISOR = 64 << 20, 16
"""A change of resident memory by more than both (bytes; RAM divided by 16) makes guest numbers outdated."""


def is_outdated(moved_bytes: int, ram_bytes: int) -> bool:
    """Tell whether resident memory has changed too much since a report to join the report with it."""
    return moved_bytes > max(MOVED_LEAST_BYTES, ram_bytes // MOVED_DIVISOR)


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """The host's charge for a VM. `ram_…` is the guest's RAM mapping, `own_…` the rest of the VMM."""

    ram_resident_bytes: int
    ram_swap_bytes: int = 0
    ram_pss_bytes: int = 0
    ram_shared_bytes: int = 0
    """Resident RAM that other mappings hold, too: the host gets nothing when this mapping releases it.

    A page that a process maps 64 times is counted as resident 64 times; 63 of them are counted here."""
    ram_huge_bytes: int = 0
    ram_locked_bytes: int = 0
    ram_ksm_bytes: int = 0
    ram_page_bytes: int = 4096
    """The largest page size in the RAM mapping: that of hugetlb, or the base page size."""
    ram_thp_eligible: bool | None = None
    """Whether the kernel may use transparent huge pages for a part of the RAM; None if unknown."""
    own_resident_bytes: int = 0
    own_pss_bytes: int = 0
    own_swap_bytes: int = 0
    own_twice_bytes: int = 0
    """Huge pages that its own mappings count again."""
    page_tables_bytes: int = 0
    peak_resident_bytes: int = 0
    """VmHWM of the whole process: the most that was ever resident."""
    sure: bool = True
    """False if the RAM mapping was guessed."""
    placed: bool = True
    """False if some RAM was not found among the mappings: it is then counted in `own_…`."""

    @property
    def ram_held_bytes(self) -> int:
        """Resident RAM that would return to the host: of shared memory its proportional part (Pss)."""
        return max(0, self.ram_resident_bytes - self.ram_shared_bytes)

    @property
    def held_bytes(self) -> int:
        """What would return to the host with the process.

        Not by the Pss of its own memory: that changes with each other process that uses its libraries.
        """
        return max(0, self.resident_bytes - self.ram_shared_bytes - self.own_twice_bytes)

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the whole process."""
        return self.ram_resident_bytes + self.own_resident_bytes

    @property
    def charged_bytes(self) -> int:
        """The host's whole charge: resident memory, memory in swap, and the page tables for it."""
        swap = self.ram_swap_bytes + self.own_swap_bytes
        return self.resident_bytes + swap + self.page_tables_bytes


class GuestSource(StrEnum):
    """Source of a guest's numbers."""

    AGENT = "agent"
    GUEST_AGENT = "qemu-guest-agent"
    BALLOON = "balloon statistics"
    FILE = "file"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class GuestSnapshot:
    """The guest's own numbers: from its /proc/meminfo and /proc/buddyinfo, or from a source with fewer."""

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
    """The part of the page cache that must be written to disk before it can be dropped."""
    cold_cache_bytes: int | None = None
    moved_bytes: int | None = None
    """Change of resident memory since these numbers were taken; None if it was not watched."""
    would_take_bytes: int | None = None
    """Cache that a release pass of the agent would take at urgency 1; None if no agent sent it."""
    cache_floor_bytes: int | None = None
    """Cache that the agent never takes, by its settings."""
    learned_floor_bytes: int | None = None
    cache_in_parts: bool = True
    """Whether the agent can reclaim a part of the cache; if not, it can only drop all of it."""
    """Cache that appears cold but that the agent keeps at urgency 1, because refaults showed its use."""
    slab_reclaimable_bytes: int | None = None
    slab_unreclaimable_bytes: int | None = None
    kernel_bytes: int | None = None
    """vmalloc (which contains kernel stacks), page tables and per-CPU memory."""
    pcp_bytes: int | None = None
    """Free pages on per-CPU lists; not part of `free_bytes`."""
    compressed_swap_bytes: int | None = None
    stall_percent: float | None = None
    """Of the last 10 s, how long a task of the guest waited for memory (PSI `some` avg10)."""
    hugetlb_bytes: int | None = None
    swap_total_bytes: int | None = None
    free_by_order: tuple[int, ...] = ()
    """Free bytes in blocks of each order, from order 0."""
    report_order: int | None = None
    reporting: bool | None = None
    cgroups: tuple[GuestCgroup, ...] = ()
    """Memory by service and container, if it was requested."""
    problems: tuple[str, ...] = field(default_factory=tuple)
    agent_is_there: bool = False
    """Whether an agent answered that it cannot give numbers now. These then come from another source."""

    @property
    def returnable_cold_bytes(self) -> int:
        """Cold cache that a release pass would take: the agent's own figure, if it sent one.

        The agent knows which cache it keeps.
        """
        if self.would_take_bytes is not None:
            return self.would_take_bytes
        return max(0, (self.cold_cache_bytes or 0) - (self.learned_floor_bytes or 0))

    @property
    def reportable_bytes(self) -> int | None:
        """Free bytes in blocks of the report order and above; None if either is unknown."""
        if self.report_order is None or not self.free_by_order:
            return None
        return sum(self.free_by_order[self.report_order :])

    @property
    def trapped_bytes(self) -> int | None:
        """Free bytes in blocks below the report order; None if either is unknown."""
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
    """Make a snapshot from the guest's own /proc/meminfo and /proc/buddyinfo.

    Text that does not parse becomes one of the snapshot's `problems` and never an exception, because a
    guest controls it.
    """
    try:
        info = meminfo.plausible(meminfo.parse(meminfo_text))
        buddy = buddyinfo.parse(buddyinfo_text, page_bytes) if buddyinfo_text else None
    except KernelFileError as error:
        return GuestSnapshot(source, age_s, problems=(f"the guest's {error}",))
    # vmalloc allocates kernel stacks on all but a few old architectures: do not count them twice.
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
    """Return the smallest order that is reported; None if neither parameter nor block sizes tell.

    `parameter` is page_reporting_order: negative if unset, None if the kernel does not have it.
    """
    if buddy is None:
        return None if parameter is None or parameter < 0 else parameter
    largest = buddyinfo.max_order(buddy)
    pageblock_order = huge_pages.pageblock_order(hugepagesize_bytes, page_bytes, largest)
    return page_reporting.effective_order(parameter, pageblock_order)


def _kib_line(meminfo_text: bytes, name: bytes) -> int:
    """Return a line of /proc/meminfo in bytes; 0 if this kernel does not have the line."""
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
    """Make a snapshot from balloon statistics: total, free, available, caches, and their age."""
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
    """Return the snapshot unchanged, or an empty one whose `problems` say why it is refused."""
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
    if total == 0:
        return _refused(guest, "a total of 0 is absurd")
    available = guest.available_bytes
    if total is not None and available is not None and available > total:
        # A leaking counter makes it so (oracle/oracle-linux#218): the other numbers may be right.
        why = f"{guest.source}: available {available} of total {total} is absurd; not believed"
        return replace(guest, available_bytes=None, problems=(*guest.problems, why))
    return guest


def _refused(guest: GuestSnapshot, why: str) -> GuestSnapshot:
    return GuestSnapshot(problems=(*guest.problems, f"{guest.source}: {why}; not believed"))
