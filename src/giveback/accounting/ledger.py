"""The ledger: join a host snapshot and a guest snapshot into rows that add up. Pure.

Every row has a part of the VM's RAM and a part of the host's charge. The parts sum to both totals exactly,
whatever numbers the guest sends. Memory that cannot be attributed has a row of its own. If the two sides
contradict each other, or are not of the same moment, the ledger gives the reason and joins nothing.
docs/ledger.md defines every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from giveback.accounting.reporting import is_reported
from giveback.accounting.usage import (
    STALE_S,
    UNWATCHED_S,
    GuestSnapshot,
    HostSnapshot,
    is_outdated,
)
from giveback_kernel.units import size, span


class Basis(StrEnum):
    """Source of a row's part of the host's charge."""

    MEASURED = "measured"
    GUEST = "guest's word"
    DERIVED = "derived"
    ASSUMED = "assumed"


class Key(StrEnum):
    """All rows of a ledger in the order of their display; the values are their titles."""

    ANON = "anonymous"
    SHMEM = "shared memory and tmpfs"
    CACHE_DIRTY = "page cache, dirty"
    CACHE_CLEAN = "page cache, clean"
    SLAB_UNRECLAIMABLE = "slab, not reclaimable"
    SLAB_RECLAIMABLE = "slab, reclaimable"
    KERNEL = "kernel: vmalloc, stacks, page tables, per-CPU"
    COMPRESSED = "compressed swap (zram, zswap)"
    PCP = "free, on the guest's per-CPU lists"
    HUGETLB = "guest huge page pool"
    USED = "used, purpose unknown"
    RESERVED = "reserved: kernel image, memory map, firmware"
    UNATTRIBUTED = "unattributed: in no counter, or in two"
    FREE_UNREPORTED = "free, resident: reporting is off"
    FREE_KEPT = "free, resident: the VMM discards no reported pages"
    FREE_TRAPPED = "free, resident: in small free blocks"
    FREE_WAITING = "free, resident: waiting to be reported"
    FREE_UNSPLIT = "free, resident: block sizes not known"
    FREE_RETURNED = "free, returned to the host"
    FREE_UNTOUCHED = "free, not resident: never touched, or returned earlier"
    BALLOON = "ballooned or unplugged"
    NOT_RESIDENT = "used, not resident: swapped out or never written"
    GUEST_SILENT = "resident, use unknown"
    UNPLACED = "guest RAM and the VMM's own memory, not told apart"
    ABSENT = "not resident, use unknown"
    RAM_SWAPPED = "guest RAM in the host's swap"
    VMM = "the VMM's own memory"
    VMM_SHARED = "the VMM's own, shared with other processes"
    VMM_SWAPPED = "the VMM's own, in the host's swap"
    PAGE_TABLES = "the host's page tables for it"


NEEDED = frozenset(
    {
        Key.ANON, Key.SHMEM, Key.CACHE_DIRTY, Key.CACHE_CLEAN, Key.SLAB_UNRECLAIMABLE,
        Key.SLAB_RECLAIMABLE, Key.KERNEL, Key.COMPRESSED, Key.PCP, Key.HUGETLB, Key.USED,
        Key.RESERVED, Key.UNATTRIBUTED, Key.NOT_RESIDENT,
    }
)  # fmt: skip
RESIDUE = frozenset(
    {
        Key.FREE_UNREPORTED, Key.FREE_KEPT, Key.FREE_TRAPPED, Key.FREE_WAITING, Key.FREE_UNSPLIT,
    }
)  # fmt: skip


OWN = frozenset({Key.VMM, Key.VMM_SHARED, Key.VMM_SWAPPED, Key.PAGE_TABLES})
"""Memory of the VMM that is not guest RAM."""
_LEAST_CERTAIN = (
    Key.RESERVED, Key.UNATTRIBUTED, Key.USED, Key.KERNEL, Key.CACHE_CLEAN, Key.SLAB_RECLAIMABLE,
    Key.SLAB_UNRECLAIMABLE, Key.ANON, Key.SHMEM, Key.CACHE_DIRTY, Key.COMPRESSED, Key.PCP,
    Key.HUGETLB,
)  # fmt: skip
"""The order in which rows are reduced. First the reserve of firmware and kernel: it is seldom all written."""
_COUNTED_TWICE_BYTES, _COUNTED_TWICE_DIVISOR = 64 << 20, 16
"""The guest's counters contradict each other if they overlap by more than both (RAM divided by 16)."""


NO_NUMBERS = "the guest sends no numbers"


class UnknownKind(StrEnum):
    """Reasons why a VM's residue and use are not known. Few and fixed: they are a label of metrics."""

    UNPLACED = "RAM not found"
    NO_NUMBERS = "no guest numbers"
    OLD = "old guest numbers"
    CONTRADICTION = "numbers contradict"


@dataclass(frozen=True, slots=True)
class Unknown:
    """The reason why a VM's residue and use are not known: its kind, and one line of text."""

    kind: UnknownKind
    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its part of the VM's RAM and its part of the host's charge; one of them may be 0."""

    key: Key
    ram_bytes: int
    host_bytes: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class Ledger:
    """All bytes of a VM in rows.

    `sum(row.ram_bytes) == ram_bytes` and `sum(row.host_bytes) == charged_bytes`.
    """

    ram_bytes: int
    charged_bytes: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    unknown: Unknown | None = None
    """Why residue and use are not known; None if they are known."""

    def host(self, *keys: Key) -> int:
        """Return the host's charge for these rows in bytes."""
        return sum(row.host_bytes for row in self.rows if row.key in keys)

    def ram(self, *keys: Key) -> int:
        """Return the guest RAM of these rows in bytes."""
        return sum(row.ram_bytes for row in self.rows if row.key in keys)

    @property
    def residue_bytes(self) -> int | None:
        """Memory free in the guest and still held by the host; None if one of the two sides is not known."""
        return None if self.unknown else self.host(*RESIDUE)

    @property
    def needed_bytes(self) -> int | None:
        """Resident RAM that the guest uses; None if one of the two sides is not known."""
        return None if self.unknown else self.host(*NEEDED)

    @property
    def in_use_bytes(self) -> int | None:
        """Resident RAM that the guest uses, without its clean page cache; None if not known."""
        return None if self.unknown else self.host(*NEEDED) - self.host(Key.CACHE_CLEAN)

    @property
    def cache_bytes(self) -> int | None:
        """Clean page cache that the host holds; None if not known."""
        return None if self.unknown else self.host(Key.CACHE_CLEAN)

    @property
    def returned_bytes(self) -> int | None:
        """Free memory that the host once held and no longer holds; None if not known."""
        return None if self.unknown else self.ram(Key.FREE_RETURNED)


AMOUNTS = (
    *("charged_bytes", "needed_bytes", "residue_bytes"),
    *("in_use_bytes", "cache_bytes", "returned_bytes"),
)
"""The amounts of a ledger that every JSON document has, under these names."""


def join(
    host: HostSnapshot,
    guest: GuestSnapshot,
    ram_bytes: int,
    *,
    balloon_bytes: int = 0,
    balloon_in_total: bool = False,
    reporting: bool | None = None,
    kept: bool = False,
) -> Ledger:
    """Make the ledger of a VM with `ram_bytes` of RAM, of which its balloon holds `balloon_bytes`.

    - `balloon_in_total`: the guest counts ballooned pages in MemTotal (deflate-on-oom).
    - `reporting`: whether the VMM accepts reports; None if unknown.
    - `kept`: the VMM accepts reports but discards no reported page.

    Blocks that can be reported are assumed to be discarded: free and resident memory is trapped, up to
    the amount in small blocks. No amount is negative, and no part of RAM is more than RAM. If the two
    sides do not fit each other, the ledger says why (`unknown`) and calculates with neither.
    """
    unknown = _why_not_joined(host, guest, ram_bytes)
    used: list[Row] = []
    if unknown is None:
        used, why = _used_rows(guest, ram_bytes, balloon_bytes, balloon_in_total=balloon_in_total)
        unknown = Unknown(UnknownKind.CONTRADICTION, f"{guest.source}: {why}") if why else None
    if unknown is None:
        active = is_reported(guest.reporting, reporting)
        rows = _joined(host, guest, used, reporting=active, kept=kept)
        rows.append(Row(Key.BALLOON, balloon_bytes, 0, Basis.ASSUMED))
    elif unknown.kind is UnknownKind.UNPLACED:
        rows = _unplaced(host, ram_bytes, balloon_bytes)
    else:
        rows = _guest_silent(host, ram_bytes, balloon_bytes)
    if unknown is None or unknown.kind is not UnknownKind.UNPLACED:
        rows += _host_rows(host)
    rows.append(Row(Key.PAGE_TABLES, 0, host.page_tables_bytes, Basis.MEASURED))
    shown = tuple(row for row in rows if row.ram_bytes or row.host_bytes)
    return Ledger(ram_bytes, host.charged_bytes, shown, _notes(host, guest, unknown), unknown)


def _why_not_joined(host: HostSnapshot, guest: GuestSnapshot, ram_bytes: int) -> Unknown | None:
    """Return why the two sides cannot be joined; None if they can."""
    if not host.placed:
        return Unknown(
            UnknownKind.UNPLACED, "which of the process's memory is guest RAM is not known"
        )
    if ram_bytes <= 0:
        return Unknown(UnknownKind.UNPLACED, "how much RAM the VM has is not known")
    if host.ram_resident_bytes > ram_bytes:
        return Unknown(
            UnknownKind.UNPLACED,
            f"{size(host.ram_resident_bytes)} resident, more than its RAM of {size(ram_bytes)}: "
            "which of the process's memory is guest RAM is not known",
        )
    if guest.total_bytes is None or guest.free_bytes is None:
        return Unknown(UnknownKind.NO_NUMBERS, NO_NUMBERS)
    age = "" if guest.age_s is None else f"{span(guest.age_s)} old"
    if guest.age_s is not None and guest.age_s > STALE_S:
        return Unknown(UnknownKind.OLD, f"{guest.source}: {age}, older than {span(STALE_S)}")
    if guest.moved_bytes is not None:
        if is_outdated(guest.moved_bytes, ram_bytes):
            return Unknown(
                UnknownKind.OLD,
                f"{guest.source}: {age or 'given before'}, and resident memory has moved by "
                f"{size(guest.moved_bytes)} since",
            )
    elif guest.age_s is not None and guest.age_s > UNWATCHED_S:
        return Unknown(
            UnknownKind.OLD,
            f"{guest.source}: {age}; whether resident memory has moved since is not known",
        )
    return None


def _unplaced(host: HostSnapshot, ram_bytes: int, balloon_bytes: int) -> list[Row]:
    """Return the rows if some guest RAM was not found on the host: none of the guest's own."""
    both, out = host.charged_bytes - host.page_tables_bytes, min(balloon_bytes, ram_bytes)
    return [
        Row(Key.UNPLACED, ram_bytes - out, both, Basis.MEASURED),
        Row(Key.BALLOON, out, 0, Basis.ASSUMED),
    ]


def _guest_silent(host: HostSnapshot, ram_bytes: int, balloon_bytes: int) -> list[Row]:
    resident = host.ram_resident_bytes
    # Ballooned memory may still be resident.
    out = min(balloon_bytes, ram_bytes - resident)
    return [
        Row(Key.GUEST_SILENT, resident, resident, Basis.MEASURED),
        Row(Key.BALLOON, out, 0, Basis.ASSUMED),
        Row(Key.ABSENT, ram_bytes - resident - out, 0, Basis.MEASURED),
    ]


def _used_rows(
    guest: GuestSnapshot, ram_bytes: int, balloon_bytes: int, *, balloon_in_total: bool
) -> tuple[list[Row], str]:
    """Return the rows of memory that is not free in the guest, and why the numbers are impossible.

    The rows sum to RAM minus free minus the balloon. The reason is "" if the numbers are possible.
    """
    total, free = guest.total_bytes or 0, guest.free_bytes or 0
    inside = balloon_bytes if balloon_in_total else 0
    reserved = ram_bytes - total - (balloon_bytes - inside)
    non_free = total - free - inside
    if reserved < 0:
        return [], f"the guest counts {size(-reserved)} more than the VM has RAM"
    if non_free < 0:
        return [], f"the guest counts {size(-non_free)} more as free than it has"
    parts = _named_parts(guest)
    rest = non_free - sum(parts.values())
    if rest < -max(_COUNTED_TWICE_BYTES, total // _COUNTED_TWICE_DIVISOR):
        return [], f"the guest counts {size(-rest)} of its memory twice"
    # Counters overlap a little: vmalloc has pages of devices, and counters are not read at the same instant.
    parts = _less(parts, max(0, -rest))
    parts[Key.UNATTRIBUTED if Key.ANON in parts else Key.USED] = max(0, rest)
    parts[Key.RESERVED] = reserved
    return [Row(key, part, part, Basis.GUEST) for key, part in parts.items()], ""


def _less(parts: dict[Key, int], surplus: int) -> dict[Key, int]:
    """Return the parts reduced by `surplus` bytes in all, the least certain part first."""
    left = dict(parts)
    for key in _LEAST_CERTAIN:
        taken = min(surplus, left.get(key, 0))
        if taken:
            left[key] -= taken
            surplus -= taken
    return left


def _joined(
    host: HostSnapshot,
    guest: GuestSnapshot,
    used: list[Row],
    *,
    reporting: bool | None,
    kept: bool,
) -> list[Row]:
    """Return the rows of used and of free memory, split by whether the host holds them."""
    absent = max(0, sum(row.ram_bytes for row in used) - host.ram_resident_bytes)
    if absent:
        held = _less({row.key: row.ram_bytes for row in used}, absent)
        used = [Row(row.key, held[row.key], held[row.key], row.basis) for row in used]
        used.append(Row(Key.NOT_RESIDENT, absent, 0, Basis.DERIVED))
    return used + _free_rows(host, guest, used, reporting=reporting, kept=kept)


def _named_parts(guest: GuestSnapshot) -> dict[Key, int]:
    parts: dict[Key, int] = {}
    if guest.cache_bytes is not None:
        dirty = min(guest.dirty_bytes or 0, guest.cache_bytes)
        parts[Key.CACHE_DIRTY] = dirty
        parts[Key.CACHE_CLEAN] = guest.cache_bytes - dirty
    named = {
        Key.ANON: guest.anon_bytes,
        Key.SHMEM: guest.shmem_bytes,
        Key.SLAB_UNRECLAIMABLE: guest.slab_unreclaimable_bytes,
        Key.SLAB_RECLAIMABLE: guest.slab_reclaimable_bytes,
        Key.KERNEL: guest.kernel_bytes,
        Key.COMPRESSED: guest.compressed_swap_bytes,
        Key.PCP: guest.pcp_bytes,
        Key.HUGETLB: guest.hugetlb_bytes,
    }
    parts.update({key: value for key, value in named.items() if value is not None})
    return parts


def _free_rows(
    host: HostSnapshot,
    guest: GuestSnapshot,
    used: list[Row],
    *,
    reporting: bool | None,
    kept: bool,
) -> list[Row]:
    """Return the rows of memory that is free in the guest, split by whether the host holds it."""
    free = guest.free_bytes or 0
    surplus = host.ram_resident_bytes - sum(row.host_bytes for row in used)
    residue = min(surplus, free)
    rows = _residue_rows(guest, residue, reporting=reporting, kept=kept)
    absent = free - residue
    # The process once held its peak and now holds less: the difference, without swap, was returned.
    held = host.resident_bytes + host.ram_swap_bytes + host.own_swap_bytes
    came_back = min(absent, max(0, host.peak_resident_bytes - held))
    rows.append(Row(Key.FREE_RETURNED, came_back, 0, Basis.DERIVED))
    rows.append(Row(Key.FREE_UNTOUCHED, absent - came_back, 0, Basis.DERIVED))
    if surplus > free:
        # More is resident than the guest has: ballooned pages that the host still holds.
        rows.append(Row(Key.UNATTRIBUTED, 0, surplus - free, Basis.DERIVED))
    return rows


def _residue_rows(
    guest: GuestSnapshot, residue: int, *, reporting: bool | None, kept: bool
) -> list[Row]:
    trapped = guest.trapped_bytes
    if reporting is False:
        return [Row(Key.FREE_UNREPORTED, residue, residue, Basis.DERIVED)]
    if kept:
        return [Row(Key.FREE_KEPT, residue, residue, Basis.DERIVED)]
    if trapped is None or reporting is None:
        return [Row(Key.FREE_UNSPLIT, residue, residue, Basis.DERIVED)]
    held = min(residue, trapped)
    return [
        Row(Key.FREE_TRAPPED, held, held, Basis.ASSUMED),
        Row(Key.FREE_WAITING, residue - held, residue - held, Basis.ASSUMED),
    ]


def _host_rows(host: HostSnapshot) -> list[Row]:
    shared = max(0, host.own_resident_bytes - host.own_pss_bytes)
    return [
        Row(Key.RAM_SWAPPED, 0, host.ram_swap_bytes, Basis.MEASURED),
        Row(Key.VMM, 0, host.own_resident_bytes - shared, Basis.MEASURED),
        Row(Key.VMM_SHARED, 0, shared, Basis.MEASURED),
        Row(Key.VMM_SWAPPED, 0, host.own_swap_bytes, Basis.MEASURED),
    ]


def _notes(host: HostSnapshot, guest: GuestSnapshot, unknown: Unknown | None) -> tuple[str, ...]:
    notes = list(guest.problems)
    if unknown is not None:
        notes.append(f"{unknown.why}; not used")
    elif (guest.pcp_bytes or 0) > (guest.total_bytes or 0) // 100:
        notes.append(
            "free pages on the guest's per-CPU lists are counted as resident. If some are not, that much "
            "more of the other free memory is resident: --exact measures it"
        )
    if not host.sure:
        notes.append("which mapping is the guest's RAM was guessed by its size")
    return tuple(notes)
