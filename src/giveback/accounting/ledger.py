"""The ledger: host picture and guest picture in, rows that add up out. Pure.

Every row has its part of the VM's RAM and its part of what the host charges; the parts sum to both
totals exactly, whatever the guest says. What cannot be attributed is a row of its own, and where
the two sides contradict each other the row that says so is negative: nothing is smeared.
docs/ledger.md defines every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from giveback.accounting.reporting import is_reported
from giveback.accounting.usage import STALE_S, GuestPicture, HostPicture
from giveback_kernel.units import size


class Basis(StrEnum):
    """How a row's part of the host's charge is known."""

    MEASURED = "measured"
    GUEST = "guest's word"
    DERIVED = "derived"
    ASSUMED = "assumed"


class Key(StrEnum):
    """The rows there are, in the order in which they are shown."""

    ANON = "anonymous"
    SHMEM = "shared memory and tmpfs"
    CACHE_DIRTY = "page cache, dirty"
    CACHE_CLEAN = "page cache, clean"
    SLAB_UNRECLAIMABLE = "slab, not reclaimable"
    SLAB_RECLAIMABLE = "slab, reclaimable"
    KERNEL = "kernel: vmalloc, stacks, page tables, per-CPU"
    COMPRESSED = "compressed swap (zram, zswap)"
    PCP = "free, kept on the guest's per-CPU lists"
    HUGETLB = "guest huge page pool"
    USED = "used, the guest does not say by what"
    RESERVED = "reserved: kernel image, memory map, firmware"
    UNATTRIBUTED = "unattributed: in no counter, or in two"
    FREE_UNREPORTED = "free, resident: reporting is off"
    FREE_KEPT = "free, resident: the VMM keeps what is reported"
    FREE_TRAPPED = "free, resident: trapped in small blocks"
    FREE_WAITING = "free, resident: waiting to be reported"
    FREE_UNSPLIT = "free, resident: block sizes not known"
    FREE_RETURNED = "free, returned to the host"
    FREE_UNTOUCHED = "free, not resident: never touched, or returned earlier"
    BALLOON = "ballooned or unplugged"
    NOT_RESIDENT = "used, yet not resident: swapped out or never written"
    GUEST_SILENT = "resident, the guest does not say for what"
    UNPLACED = "guest RAM and the VMM's own: which is which is not known"
    ABSENT = "not resident, the guest does not say for what"
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
SILENT = frozenset({Key.GUEST_SILENT, Key.UNPLACED})
"""Where there is one of these, one of the two sides is not known, and the residue is not either."""


@dataclass(frozen=True, slots=True)
class Row:
    """A part of the VM's RAM, of the host's charge, or of both."""

    key: Key
    ram_bytes: int
    host_bytes: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where every byte is. `sum(row.ram_bytes) == ram_bytes`, `sum(row.host_bytes) == charged`."""

    ram_bytes: int
    charged_bytes: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def host(self, *keys: Key) -> int:
        """The host's charge of these rows."""
        return sum(row.host_bytes for row in self.rows if row.key in keys)

    def ram(self, *keys: Key) -> int:
        """The RAM of these rows."""
        return sum(row.ram_bytes for row in self.rows if row.key in keys)

    @property
    def residue_bytes(self) -> int | None:
        """What the host holds for nothing; None where one of the two sides is not known."""
        if self._is_silent:
            return None
        return self.host(*RESIDUE)

    @property
    def needed_bytes(self) -> int | None:
        """Resident RAM that the guest uses; None where one of the two sides is not known."""
        if self._is_silent:
            return None
        return self.host(*NEEDED)

    @property
    def _is_silent(self) -> bool:
        return any(row.key in SILENT for row in self.rows)


def join(
    host: HostPicture,
    guest: GuestPicture,
    ram_bytes: int,
    *,
    balloon_bytes: int = 0,
    balloon_in_total: bool = False,
    reporting: bool | None = None,
    kept: bool = False,
) -> Ledger:
    """The ledger of a VM of `ram_bytes`, of which its balloon holds `balloon_bytes`.

    `balloon_in_total`: the guest counts ballooned pages in MemTotal (deflate-on-oom). `reporting`:
    whether the VMM takes reports. `kept`: it takes them and keeps the pages all the same.
    Reported blocks are assumed gone: what is free and resident is trapped as far as that goes.
    """
    stale = guest.age_s is not None and guest.age_s > STALE_S
    if not host.placed:
        rows = _unplaced(host, ram_bytes, balloon_bytes)
    elif guest.total_bytes is None or guest.free_bytes is None or stale:
        rows = _guest_silent(host, ram_bytes, balloon_bytes)
    else:
        active = is_reported(guest.reporting, reporting)
        used = _used_rows(guest, ram_bytes, balloon_bytes, balloon_in_total=balloon_in_total)
        rows = used + _free_rows(host, guest, used, reporting=active, kept=kept)
        rows.append(Row(Key.BALLOON, balloon_bytes, 0, Basis.ASSUMED))
    if host.placed:
        rows += _host_rows(host)
    rows.append(Row(Key.PAGE_TABLES, 0, host.page_tables_bytes, Basis.MEASURED))
    shown = tuple(row for row in rows if row.ram_bytes or row.host_bytes)
    notes = [*_notes(host, guest, stale=stale), *_surplus(rows)]
    return Ledger(ram_bytes, host.charged_bytes, shown, tuple(notes))


def _unplaced(host: HostPicture, ram_bytes: int, balloon_bytes: int) -> list[Row]:
    """No row of the guest's is joined with a host's side of which a part was not found."""
    both = host.charged_bytes - host.page_tables_bytes
    return [
        Row(Key.UNPLACED, ram_bytes - balloon_bytes, both, Basis.MEASURED),
        Row(Key.BALLOON, balloon_bytes, 0, Basis.ASSUMED),
    ]


def _guest_silent(host: HostPicture, ram_bytes: int, balloon_bytes: int) -> list[Row]:
    resident = host.ram_resident_bytes
    return [
        Row(Key.GUEST_SILENT, resident, resident, Basis.MEASURED),
        Row(Key.BALLOON, balloon_bytes, 0, Basis.ASSUMED),
        Row(Key.ABSENT, ram_bytes - resident - balloon_bytes, 0, Basis.MEASURED),
    ]


def _used_rows(
    guest: GuestPicture, ram_bytes: int, balloon_bytes: int, *, balloon_in_total: bool
) -> list[Row]:
    """What the guest does not count as free: it sums to RAM less free less the balloon."""
    total, free = guest.total_bytes or 0, guest.free_bytes or 0
    inside = balloon_bytes if balloon_in_total else 0
    reserved = ram_bytes - total - (balloon_bytes - inside)
    non_free = total - free - inside
    parts = _named_parts(guest)
    rest = non_free - sum(parts.values())
    if Key.ANON in parts:
        parts[Key.UNATTRIBUTED] = rest
    else:
        parts[Key.USED] = rest
    parts[Key.RESERVED] = reserved
    return [Row(key, part, part, Basis.GUEST) for key, part in parts.items()]


def _named_parts(guest: GuestPicture) -> dict[Key, int]:
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
    host: HostPicture,
    guest: GuestPicture,
    used: list[Row],
    *,
    reporting: bool | None,
    kept: bool,
) -> list[Row]:
    """What the guest counts as free, split by whether the host holds it."""
    free = guest.free_bytes or 0
    used_bytes = sum(row.ram_bytes for row in used)
    surplus = host.ram_resident_bytes - used_bytes
    residue = max(0, min(surplus, free))
    rows = _residue_rows(guest, residue, reporting=reporting, kept=kept)
    absent = free - residue
    # The process held its peak once and holds less now: what of it is not in swap went back.
    held = host.resident_bytes + host.ram_swap_bytes + host.own_swap_bytes
    came_back = min(absent, max(0, host.peak_resident_bytes - held))
    rows.append(Row(Key.FREE_RETURNED, came_back, 0, Basis.DERIVED))
    rows.append(Row(Key.FREE_UNTOUCHED, absent - came_back, 0, Basis.DERIVED))
    if surplus < 0:
        rows.append(Row(Key.NOT_RESIDENT, 0, surplus, Basis.DERIVED))
    elif surplus > free:
        # More is resident than the guest has: ballooned pages still held, or a guest that lies.
        rows.append(Row(Key.UNATTRIBUTED, 0, surplus - free, Basis.DERIVED))
    return rows


def _residue_rows(
    guest: GuestPicture, residue: int, *, reporting: bool | None, kept: bool
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


def _host_rows(host: HostPicture) -> list[Row]:
    shared = max(0, host.own_resident_bytes - host.own_pss_bytes)
    return [
        Row(Key.RAM_SWAPPED, 0, host.ram_swap_bytes, Basis.MEASURED),
        Row(Key.VMM, 0, host.own_resident_bytes - shared, Basis.MEASURED),
        Row(Key.VMM_SHARED, 0, shared, Basis.MEASURED),
        Row(Key.VMM_SWAPPED, 0, host.own_swap_bytes, Basis.MEASURED),
    ]


def _surplus(rows: list[Row]) -> list[str]:
    surplus = -sum(row.ram_bytes for row in rows if row.key is Key.RESERVED)
    if surplus <= 0:
        return []
    return [f"the guest counts {size(surplus)} more than the VM has RAM: its numbers do not fit"]


def _notes(host: HostPicture, guest: GuestPicture, *, stale: bool) -> list[str]:
    notes = list(guest.problems)
    if stale:
        notes.append(
            f"{guest.source}: {guest.age_s:.0f} s old, older than {STALE_S:.0f} s; not used"
        )
    if not stale and (guest.pcp_bytes or 0) > (guest.total_bytes or 0) // 100:
        notes.append(
            "free pages on the guest's per-CPU lists are counted as resident; as far as they are "
            "not, more of the other free memory is: --exact measures it"
        )
    if not host.sure:
        notes.append("which mapping is the guest's RAM was guessed by its size")
    return notes
