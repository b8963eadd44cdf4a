"""Memory of a VM that could come back: one calculation for `ps`, `status`, `explain` and the arbiter. Pure.

All amounts lie within resident memory, so that a guest has no advantage of claiming more than it
holds. A guest that claims less is asked for less, which costs it nothing either.
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
"""Page cache that an agent with default settings never takes; used if the agent did not send its floor."""


@dataclass(frozen=True, slots=True)
class Returnable:
    """Memory that could come back, in three disjoint parts; their sum is at most resident memory."""

    residue_bytes: int
    """Free in the guest, still held by the host: comes back at any urgency."""
    cold_bytes: int
    """Cache above the floor that was not used recently: comes back at urgency 1."""
    warm_bytes: int
    """The rest of the cache above the floor: comes back at urgency 2 and 3."""

    @property
    def total_bytes(self) -> int:
        """The sum of the three parts."""
        return self.residue_bytes + self.cold_bytes + self.warm_bytes


def returnable_of(seen: Observation) -> Returnable | None:
    """Return how much of a VM's memory could come back; None if the host or guest side is unknown.

    It is not checked whether the VM can be asked for it.
    """
    resident_bytes = resident_of(seen)
    if seen.ledger is None or resident_bytes is None or seen.ledger.residue_bytes is None:
        return None
    found = _within_ledger(resident_bytes, seen.guest, seen.ledger)
    shared_bytes = 0 if seen.host is None else seen.host.ram_shared_bytes
    return _unshared(found, resident_bytes - shared_bytes, resident_bytes)


def _unshared(found: Returnable, held_bytes: int, resident_bytes: int) -> Returnable:
    """Scale each part down to the memory that no other mapping holds: only that returns to the host."""
    if held_bytes >= resident_bytes:
        return found
    parts = (found.residue_bytes, found.cold_bytes, found.warm_bytes)
    return Returnable(*(part * max(0, held_bytes) // resident_bytes for part in parts))


def _within_ledger(resident_bytes: int, guest: GuestSnapshot, ledger: Ledger) -> Returnable:
    residue = _within(ledger.host(*RESIDUE), resident_bytes)
    # Memory that the guest uses and the host does not hold: assume, to be careful, that all is cache.
    clean = (guest.cache_bytes or 0) - min(guest.dirty_bytes or 0, guest.cache_bytes or 0)
    absent = ledger.ram(Key.NOT_RESIDENT)
    held = min(ledger.host(Key.CACHE_CLEAN), max(0, clean - absent))
    sent_bytes = guest.cache_floor_bytes
    cache = max(0, held - (AGENT_FLOOR_BYTES if sent_bytes is None else sent_bytes))
    if guest.available_bytes is not None and guest.free_bytes is not None:
        cache = min(cache, max(0, guest.available_bytes - guest.free_bytes))
    cache = _within(cache, resident_bytes - residue)
    # Cache that the agent would not take at urgency 1 comes back at 2 only: it is warm, whatever the
    # kernel calls it.
    cold = _within(guest.returnable_cold_bytes, cache)
    return Returnable(residue, cold, cache - cold)


def _within(value: int, limit: int) -> int:
    return min(max(0, value), max(0, limit))
