"""One VM, both sides joined: what `ps`, `explain` and `doctor` show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.accounting.ledger import UnknownKind

if TYPE_CHECKING:
    from giveback.accounting.exact import Exact
    from giveback.accounting.ledger import Ledger
    from giveback.accounting.usage import GuestSnapshot, HostSnapshot
    from giveback.vmm.base import VmDescription, VmState
    from giveback.vmm.mapping import BoundBlock


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is known of a VM at a moment; `host` and `ledger` are None where smaps is barred."""

    vm: VmDescription
    state: VmState
    host: HostSnapshot | None
    guest: GuestSnapshot
    ledger: Ledger | None
    bound: tuple[BoundBlock, ...] = ()
    process_rss_bytes: int | None = None
    """What everyone may see of the process, where its mappings may not be read."""
    problems: tuple[str, ...] = ()
    exact: Exact | None = None
    """The page by page part, where it was asked for."""


def resident_of(seen: Observation) -> int | None:
    """Return resident guest RAM; None where it cannot be told from the VMM's own memory."""
    ledger, host = seen.ledger, seen.host
    if ledger is None or host is None:
        return None
    is_placed = ledger.unknown is None or ledger.unknown.kind is not UnknownKind.UNPLACED
    return host.ram_resident_bytes if is_placed else None
