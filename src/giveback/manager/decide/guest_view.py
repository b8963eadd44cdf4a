"""Make the arbiter's view of a VM: the guest's own numbers, limited by the host's measurement. Pure.

A guest that claims more than it holds has no advantage: it can be asked for resident memory only. A
guest that claims less is asked for less, which costs it nothing either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.accounting.returnable import Returnable, returnable_of
from giveback.accounting.usage import GuestSource
from giveback.manager.decide.promises import Trust
from giveback.manager.devices import rules
from giveback.manager.model import GuestView

if TYPE_CHECKING:
    from giveback.accounting.observation import Observation
    from giveback.accounting.usage import GuestSnapshot
    from giveback.manager.settings.load import VmSettings

FRESH_S = 30.0
"""Older numbers are shown (the ledger accepts 60 s), but no memory is asked for because of them."""
_NOTHING = Returnable(0, 0, 0)
PRESSED_PERCENT = 8
"""The agent takes nothing below 6 % available, so a guest close to that is not asked at all."""
_TRUSTED = Trust()


def view_of(
    seen: Observation,
    settings: VmSettings,
    *,
    key: str,
    hears: bool,
    is_hostile: bool = False,
    trust: Trust = _TRUSTED,
    asked_at_s: float | None = None,
) -> GuestView:
    """Return the arbiter's view of one observed VM.

    `hears`: whether its agent answers. A VM has nothing to give if its agent does not answer and no
    device may take from it. The same holds if its host side cannot be read: nothing that comes back could
    be verified. `is_hostile`: its guest was disconnected for breaking the protocol; numbers of its agent
    are shown, but not acted upon.
    """
    barred = rules.barred(seen.vm, seen.state, although_reports=settings.although_reports)
    reachable = hears or (settings.may_fall_back and not barred)
    may_ask = reachable and not settings.ignore
    can_come = (returnable_of(seen) if may_ask else None) or _NOTHING
    resident = seen.process_rss_bytes or 0
    if seen.host is not None:
        resident = seen.host.ram_held_bytes
    return GuestView(
        key=key,
        resident_bytes=resident,
        trapped_bytes=can_come.residue_bytes,
        cold_bytes=can_come.cold_bytes,
        warm_bytes=can_come.warm_bytes,
        floor_bytes=settings.floor_bytes,
        weight=settings.weight,
        fresh=_is_fresh(seen) and not (is_hostile and seen.guest.source is GuestSource.AGENT),
        hears_urgency=hears,
        pressed=is_pressed(seen.guest),
        reliability=trust.reliability,
        proven_bytes=trust.proven_bytes,
        asked_at_s=asked_at_s,
    )


def is_pressed(guest: GuestSnapshot) -> bool:
    """Return whether the guest itself is short of memory, by its own numbers."""
    total, available = guest.total_bytes, guest.available_bytes
    if not total or available is None:
        return False
    return available * 100 < total * PRESSED_PERCENT


def _is_fresh(seen: Observation) -> bool:
    """Return whether the guest runs and its numbers are recent; numbers of unknown age count as old."""
    guest = seen.guest
    if seen.host is None or seen.state.running is False or guest.total_bytes is None:
        return False
    return guest.age_s is not None and 0 <= guest.age_s <= FRESH_S
