"""What the arbiter may know of a VM: the guest's word, cut to what the host measured. Pure.

A guest that claims more than it holds gains nothing: all it can be asked for lies within what is
resident. A guest that claims less is asked for less, which costs it nothing either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.accounting.ledger import RESIDUE, Key
from giveback.accounting.usage import GuestSource
from giveback.manager.devices import rules
from giveback.manager.model import GuestView

if TYPE_CHECKING:
    from giveback.accounting.ledger import Ledger
    from giveback.accounting.observation import Observation
    from giveback.accounting.usage import GuestPicture
    from giveback.manager.settings.load import VmSettings

FRESH_S = 30.0
"""Numbers older than this are shown (the ledger takes 60 s), but nothing is asked because of them."""
PRESSED_PERCENT = 8
"""The agent keeps its hands off below 6 % available: a guest that is near is not asked at all."""
AGENT_FLOOR_BYTES = 64 << 20
"""Page cache that an agent with its own defaults never takes: not promised by anyone."""


def view_of(
    seen: Observation,
    settings: VmSettings,
    *,
    key: str,
    hears: bool,
    is_hostile: bool = False,
    reliability: float = 1.0,
    asked_at_s: float | None = None,
) -> GuestView:
    """One observed VM for the arbiter.

    `hears`: whether its agent answers. A VM that neither hears nor can be taken from by a device is
    shown with nothing to give. So is one whose host side may not be read: what comes back from it
    could not be verified. `is_hostile`: its guest was cut off; what its agent says is only shown.
    """
    barred = rules.barred(seen.vm, seen.state, although_reports=settings.although_reports)
    reachable = hears or (settings.may_fall_back and not barred)
    guest, ledger = seen.guest, seen.ledger
    trapped = cold = warm = 0
    resident = seen.process_rss_bytes or 0
    if seen.host is not None:
        resident = max(0, seen.host.ram_resident_bytes)
        if ledger is not None and reachable and not settings.ignore:
            trapped, cold, warm = _returnable(resident, guest, ledger)
    return GuestView(
        key=key,
        resident_bytes=resident,
        trapped_bytes=trapped,
        cold_bytes=cold,
        warm_bytes=warm,
        floor_bytes=settings.floor_bytes,
        weight=settings.weight,
        fresh=_is_fresh(seen) and not (is_hostile and seen.guest.source is GuestSource.AGENT),
        hears_urgency=hears,
        pressed=is_pressed(guest),
        reliability=reliability,
        asked_at_s=asked_at_s,
    )


def is_pressed(guest: GuestPicture) -> bool:
    """Whether the guest itself is short of memory, by its own account."""
    total, available = guest.total_bytes, guest.available_bytes
    if not total or available is None:
        return False
    return available * 100 < total * PRESSED_PERCENT


def _is_fresh(seen: Observation) -> bool:
    """Recent numbers of a guest that runs; where nobody knows how old they are, they are old."""
    guest = seen.guest
    if seen.host is None or seen.state.running is False or guest.total_bytes is None:
        return False
    return guest.age_s is not None and 0 <= guest.age_s <= FRESH_S


def _returnable(resident: int, guest: GuestPicture, ledger: Ledger) -> tuple[int, int, int]:
    """Trapped, cold and warm bytes, disjoint, within what is resident."""
    trapped = _within(ledger.host(*RESIDUE), resident)
    # What the guest uses and the host does not hold may be cache, all of it, to be careful.
    clean = (guest.cache_bytes or 0) - min(guest.dirty_bytes or 0, guest.cache_bytes or 0)
    absent = ledger.ram(Key.NOT_RESIDENT)
    held = min(ledger.host(Key.CACHE_CLEAN), max(0, clean - absent))
    cache = max(0, held - AGENT_FLOOR_BYTES)
    if guest.available_bytes is not None and guest.free_bytes is not None:
        cache = min(cache, max(0, guest.available_bytes - guest.free_bytes))
    cache = _within(cache, resident - trapped)
    # What its agent has learned to keep goes at urgency 2 only: it is warm, whatever the kernel calls it.
    cold = _within(guest.returnable_cold_bytes, cache)
    return trapped, cold, cache - cold


def _within(value: int, limit: int) -> int:
    return min(max(0, value), max(0, limit))
