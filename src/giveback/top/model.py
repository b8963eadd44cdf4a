"""The data that `giveback top` shows, whichever source it is from. No behaviour.

All amounts are bytes, None is unknown. Every text is already escaped: names come from strangers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class VmParts:
    """The four parts of a VM's RAM; the rest was never touched, is ballooned or swapped out."""

    needed_bytes: int
    """In use: resident memory that is neither free nor clean page cache."""
    cache_bytes: int
    """Clean page cache that the host holds."""
    trapped_bytes: int
    """Free in the guest, still held by the host: the residue."""
    returned_bytes: int
    """Free memory that the host held once and holds no more."""


@dataclass(frozen=True, slots=True)
class TopVm:
    """One VM as `giveback top` shows it."""

    key: str
    name: str
    pid: int
    backend: str = ""
    owner: str = ""
    ram_bytes: int | None = None
    resident_bytes: int | None = None
    parts: VmParts | None = None
    """None where the guest's side is not known."""
    small_blocks_bytes: int | None = None
    """The part of `trapped_bytes` that is in free blocks too small to be reported."""
    returnable_bytes: int | None = None
    stall_percent: float | None = None
    """Of the last 10 s, how long a task of the guest waited for memory (PSI some avg10)."""
    guest_available_percent: float | None = None
    condition: str = ""
    condition_text: str = ""
    urgency: int | None = None
    verdict: str = ""
    """What the last request brought, in words."""
    unknown: str = ""
    """Why the parts are not known; "" where they are."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """The host's charge for each ledger row, by the row's own label."""
    ram_rows: Mapping[str, int] = field(default_factory=dict)
    """RAM that is not resident, by the row's own label."""
    doctor: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TopHost:
    """The host as `giveback top` shows it."""

    total_bytes: int
    available_bytes: int
    stall_some_percent: float | None = None
    stall_full_percent: float | None = None
    swap_free_bytes: int | None = None
    urgency: int | None = None
    """None where no daemon decides."""
    deficit_bytes: int = 0
    trouble_in_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TopSnapshot:
    """The host and its VMs at one moment."""

    wall_s: float
    host: TopHost | None
    vms: tuple[TopVm, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanPart:
    """What one VM would give, or gave."""

    name: str
    expected_bytes: int
    returned_bytes: int
    words: str
    """At which cost, or why it gives nothing or less."""


@dataclass(frozen=True, slots=True)
class ReclaimPlan:
    """The daemon's answer to a request to free memory, or to its dry run."""

    goal_bytes: int
    most_bytes: int
    """The most that can come; 0: no VM can be asked."""
    parts: tuple[PlanPart, ...]
    text: str
    """The same in words, as `giveback reclaim` prints it."""
