"""One VM with its host side and its guest side joined: the data that `ps`, `explain` and `doctor` show."""

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
    """All that is known of a VM at one moment.

    `host` and `ledger` are None if the process's smaps cannot be read.
    """

    vm: VmDescription
    state: VmState
    host: HostSnapshot | None
    guest: GuestSnapshot
    ledger: Ledger | None
    bound: tuple[BoundBlock, ...] = ()
    process_rss_bytes: int | None = None
    """Rss of the whole process, which every user may read; set if its mappings cannot be read."""
    problems: tuple[str, ...] = ()
    exact: Exact | None = None
    """The ledger counted page by page, if it was requested."""


def resident_of(seen: Observation) -> int | None:
    """Return resident guest RAM in bytes.

    None if guest RAM was not found among the process's mappings, or they cannot be read.
    """
    ledger, host = seen.ledger, seen.host
    if ledger is None or host is None:
        return None
    is_placed = ledger.unknown is None or ledger.unknown.kind is not UnknownKind.UNPLACED
    return host.ram_resident_bytes if is_placed else None
