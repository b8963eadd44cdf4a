"""What of a VM could come back: `ps`, `status`, `explain` and the arbiter promise the same. Pure.

A guest that claims more than it holds gains nothing: all amounts lie within what is resident. A guest
that claims less is asked for less, which costs it nothing either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.accounting.ledger import RESIDUE, Key
from giveback.accounting.observation import resident_of

if TYPE_CHECKING:
    from giveback.accounting.ledger import Ledger
    from giveback.accounting.observation import Observation
    from giveback.accounting.usage import GuestSnapshot

AGENT_FLOOR_BYTES = 64 << 20
"""Page cache that an agent with its own defaults never takes: for one that does not tell its floor."""


@dataclass(frozen=True, slots=True)
class Returnable:
    """What could come back, in three disjoint parts that add up to at most what is resident."""

    residue_bytes: int
    """Free in the guest and still held: at any urgency."""
    cold_bytes: int
    """Cache beyond its floor that was not used lately: at urgency 1."""
    warm_bytes: int
    """The rest of the cache beyond its floor: at urgency 2 and 3."""

    @property
    def total_bytes(self) -> int:
        return self.residue_bytes + self.cold_bytes + self.warm_bytes


def returnable_of(seen: Observation) -> Returnable | None:
    """Return what could come back of a VM; None where either side is not known.

    Whether it can be asked at all is not looked at.
    """
    resident_bytes = resident_of(seen)
    if seen.ledger is None or resident_bytes is None or seen.ledger.residue_bytes is None:
        return None
    found = _within_ledger(resident_bytes, seen.guest, seen.ledger)
    shared_bytes = 0 if seen.host is None else seen.host.ram_shared_bytes
    return _unshared(found, resident_bytes - shared_bytes, resident_bytes)


def _unshared(found: Returnable, held_bytes: int, resident_bytes: int) -> Returnable:
    """Each part as far as the host would have it again, where other mappings hold the same memory."""
    if held_bytes >= resident_bytes:
        return found
    parts = (found.residue_bytes, found.cold_bytes, found.warm_bytes)
    return Returnable(*(part * max(0, held_bytes) // resident_bytes for part in parts))


def _within_ledger(resident_bytes: int, guest: GuestSnapshot, ledger: Ledger) -> Returnable:
    residue = _within(ledger.host(*RESIDUE), resident_bytes)
    # What the guest uses and the host does not hold may be cache, all of it, to be careful.
    clean = (guest.cache_bytes or 0) - min(guest.dirty_bytes or 0, guest.cache_bytes or 0)
    absent = ledger.ram(Key.NOT_RESIDENT)
    held = min(ledger.host(Key.CACHE_CLEAN), max(0, clean - absent))
    told_bytes = guest.cache_floor_bytes
    cache = max(0, held - (AGENT_FLOOR_BYTES if told_bytes is None else told_bytes))
    if guest.available_bytes is not None and guest.free_bytes is not None:
        cache = min(cache, max(0, guest.available_bytes - guest.free_bytes))
    cache = _within(cache, resident_bytes - residue)
    # What its agent would not take at urgency 1 goes at 2 only: it is warm, whatever the kernel calls it.
    cold = _within(guest.returnable_cold_bytes, cache)
    return Returnable(residue, cold, cache - cold)


def _within(value: int, limit: int) -> int:
    return min(max(0, value), max(0, limit))
