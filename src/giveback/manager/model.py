"""The manager's data: status, decisions, actions and their results. No behaviour.

`now_s` and `…_at_s` are `time.monotonic()` unless the name says `wall`. All amounts are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from giveback.host.memory import HostView

URGENCIES = (0, 1, 2, 3)
"""0: keep caches, the host has enough memory. 1: the guest's own policy. 2: warm cache as well. 3: all that
can be returned."""
NEAR_DIVISOR = 256
"""A goal counts as reached if at most this part (1/256) of it is missing."""


class UrgencyBy(StrEnum):
    """The source of a guest's urgency."""

    HOST = "host"
    """The arbiter, which decides by the host's memory."""
    RECLAIM = "reclaim"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class GuestView:
    """The arbiter's view of a VM: measured on the host, or sent by the guest and limited by that.

    `trapped_bytes` (residue), `cold_bytes` and `warm_bytes` are disjoint and add up to at most resident -
    needed; taking `warm_bytes` causes refaults. `fresh` is False if the guest's numbers are too old to act
    upon. `reliability` is 1 if all bytes that were asked for came back.
    """

    key: str
    resident_bytes: int
    trapped_bytes: int
    cold_bytes: int
    warm_bytes: int
    floor_bytes: int = 0
    weight: float = 1.0
    fresh: bool = True
    hears_urgency: bool = True
    pressed: bool = False
    """The guest itself is short of memory, so it is not asked."""
    reliability: float = 1.0
    proven_bytes: int = 0
    """The bytes that it returned before, by the host's own count; up to these its claims are believed."""
    asked_at_s: float | None = None
    may_press: bool = True
    """False while a manual urgency holds: `reclaim`'s urgency would not be sent, so it does not ask."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to one guest: the urgency to send, and the bytes that it is expected to return."""

    key: str
    urgency: int
    goal_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The arbiter's decision. `trouble_in_s`: seconds until memory runs out; None if it does not."""

    urgency: int
    deficit_bytes: int
    trouble_in_s: float | None
    asks: tuple[Ask, ...]
    reason: str
    look_again_s: float
    """Seconds until the next decision is due: shorter, the more the host needs memory."""
    calm_urgency: int = 0
    """The urgency for guests that are not asked; without a manager an agent acts as at 1."""


class ActionKind(StrEnum):
    """The kinds of actions of the manager on a VM."""

    ASK = "ask"
    BALLOON = "balloon"
    DEFLATE = "deflate"
    VIRTIO_MEM = "virtio-mem"
    RECLAIM = "reclaim"


@dataclass(frozen=True, slots=True)
class RecordedAction:
    """One action and, once it is verified, its result, as the history keeps it.

    `kind` may be any text, because a daemon of another version may have written it.
    """

    id: int
    wall_s: float
    vm: str
    kind: str
    urgency: int
    expected_bytes: int
    reason: str
    measured_bytes: int | None = None
    """Resident bytes before minus resident bytes after, by the host's own count; None until verified."""
    verdict: str = ""
    """Why too few bytes came, in words; "" if enough came."""


@dataclass(frozen=True, slots=True)
class ManagerAction(RecordedAction):
    """One action of this daemon and, once it is verified, its result."""

    kind: ActionKind
    took_s: float | None = None
    """From the action to its verdict; None until verified."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Memory taken from a guest by a device. It is written to disk, so that it is released in any case."""

    vm: str
    pid: int
    start_ticks: int
    """The start time in /proc/PID/stat: the PID may belong to another process later."""
    device: ActionKind
    control: str
    before_bytes: int
    target_bytes: int
    """The memory of the guest (balloon), or the requested size (virtio-mem): before the lease, and now."""
    wall_s: float
    device_id: str = ""
    """The device's id, if the VM may have several of this kind."""
    most_bytes: int = 0
    """The guest's memory without its balloon when the lease began; 0 if unknown. More may be plugged in."""


class VmCondition(StrEnum):
    """The condition of a VM, as the manager sees it."""

    OK = "ok"
    NO_AGENT = "no agent"
    SILENT = "silent"
    PAUSED = "paused"
    STOPPED = "stopped"
    """The VMM's process was stopped by a signal (SIGSTOP): neither its monitor nor its guest answers."""
    BUSY_CHANNEL = "channel held by another"
    HOSTILE = "hostile"
    SHORT = "does not deliver"
    UNREADABLE = "unreadable"
    CONTRADICTS = "numbers contradict"
    IGNORED = "ignored"
    """Its settings say to ignore it, so it is not judged."""


@dataclass(frozen=True, slots=True)
class VmStatus:
    """One VM as `status`, the API, the metrics and the history show it."""

    key: str
    """Unique on this host while it runs: backend, name and pid."""
    name: str
    backend: str
    pid: int
    condition: VmCondition
    condition_text: str
    ram_bytes: int
    resident_bytes: int | None
    needed_bytes: int | None
    residue_bytes: int | None
    rows: Mapping[str, int] = field(default_factory=dict)
    """The host's charge for each ledger row, by `ledger.Key`'s name in lower case."""
    ram_rows: Mapping[str, int] = field(default_factory=dict)
    """The part of the VM's RAM in each ledger row that has one, by the same names."""
    unknown: str = ""
    """Why residue and needed are unknown, in one line; "" if they are known."""
    in_use_bytes: int | None = None
    """Needed without clean page cache."""
    cache_bytes: int | None = None
    """Clean page cache that the host holds."""
    returned_bytes: int | None = None
    """Free memory that the host held once and holds no longer."""
    own_bytes: int | None = None
    """The VMM's own memory, and its page tables."""
    charged_bytes: int | None = None
    """All memory that the host charges for the VM."""
    reporting: str = ""
    """The state of free page reporting: on, offered, not taken, off, no device, blocked or ?."""
    guest_source: str = ""
    sampled_age_s: float | None = None
    urgency: int | None = None
    urgency_by: str | None = None
    """The source of the urgency: `host` (the arbiter), `reclaim` or `manual`."""
    urgency_left_s: float | None = None
    """Seconds until a manual urgency or `reclaim`'s ends; None for the arbiter's, which has no end."""
    lease_left_s: float | None = None
    reliability: float | None = None
    """The part of the bytes asked for that came back; None until a request was judged."""
    cache_floor_bytes: int | None = None
    """Cache that its agent never takes; None if the agent does not report it."""
    learned_floor_bytes: int | None = None
    """Cache that its agent keeps at urgency 1, because of refaults; None if it does not report it."""
    returnable_bytes: int | None = None
    """Residue, cold and warm cache together. Its condition says whether it can be asked."""
    cold_bytes: int | None = None
    warm_bytes: int | None = None
    """Cache above the agent's floor: cold cache is returned at urgency 1, warm cache only at 2 and 3."""
    balloon_lease_bytes: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    """Counts of errors, by a bounded set of kinds."""
    doctor: tuple[str, ...] = ()
    uid: int | None = None
    """The VMM's user. Surfaces resolve the name themselves, because that may take long."""
    label: str = ""
    """The owner of its use of memory, from the settings; "" if they name none."""
    host_percent: float | None = None
    """Resident RAM in per cent of the host's RAM."""
    cpu_percent: float | None = None
    """CPU time since the last sample, in per cent of one CPU; after one sample, since the VMM's start."""
    uptime_s: float | None = None
    swap_bytes: int | None = None
    """Memory of the VMM that is swapped out, guest RAM included."""
    swap_in_bytes_per_s: float | None = None
    swap_out_bytes_per_s: float | None = None
    """The decrease and the increase of its swapped-out anonymous memory since the last sample; None until
    there are two."""
    guest_stall_percent: float | None = None
    """Of the last 10 s, how long a task of the guest waited for memory, as its agent tells (PSI some)."""
    guest_available_percent: float | None = None
    """What the guest has available, of its memory, by its own account."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """All that the manager knows at one time. API, metrics, history and tables are made from it."""

    wall_s: float
    started_wall_s: float
    host: HostView | None
    decision: Decision | None
    vms: tuple[VmStatus, ...]
    actions: tuple[ManagerAction, ...]
    """The last actions, newest last; their number is bounded."""
    leases: tuple[Lease, ...]
    errors: Mapping[str, int]
    """Counts of the manager's own errors (history, settings, sockets), by a bounded set of kinds."""
    problems: tuple[str, ...]
    """The manager's own problems."""
    settings_source: str
    vm_problems: tuple[str, ...] = ()
    """The problems of VMs, with their causes, one line each."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The bytes that a `reclaim` asked of one VM, and those that it returned from then on."""

    vm: str
    expected_bytes: int
    returned_bytes: int
    words: str
    """Why it was not asked or returned too little; or, in a dry run, what it would return at what cost."""
    urgency: int | None = None
    """The urgency of the last ask; None if it was not asked."""


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """The result of `giveback reclaim`; of a dry run, the first asks of each VM."""

    goal_bytes: int
    returned_bytes: int
    """Bytes returned by the VMs that were asked, each since its first ask."""
    took_s: float
    parts: tuple[Returned, ...]
    most_bytes: int = 0
    """The most that could come from the VMs that can be asked; 0 if none can."""
    others_returned_bytes: int = 0
    """Bytes that came in this time without an ask of `reclaim`."""
    grown_bytes: int = 0
    """Bytes by which VMs grew in this time, asked or not."""
    available_before_bytes: int | None = None
    available_after_bytes: int | None = None
    """The host's available memory before and after; None if it was not sampled."""
    dry_run: bool = False

    @property
    def reached(self) -> bool:
        """Whether the goal was reached, apart from an amount by which resident memory varies anyway."""
        return is_reached(self.returned_bytes, self.goal_bytes)


def is_reached(came_bytes: int, goal_bytes: int) -> bool:
    """Return whether at most 1/256 of a goal is missing: resident memory varies by a few pages anyway."""
    return came_bytes >= goal_bytes - goal_bytes // NEAR_DIVISOR


class Manager(Protocol):
    """The interface of the running manager for the API and the metrics."""

    def status(self) -> DaemonStatus:
        """Return the present status; no VM is touched for it."""
        ...

    async def reclaim(
        self, goal_bytes: int, within_s: float, vms: Sequence[str] = (), *, dry_run: bool = False
    ) -> ReclaimResult:
        """Free memory now, or only plan it. Raises InputError for an unknown VM or a wrong goal."""
        ...

    async def set_urgency(self, vm: str, urgency: int, lease_s: float) -> None:
        """Send one guest a manual urgency for `lease_s` seconds. Raises InputError, VmError."""
        ...


class HistoryRecorder(Protocol):
    """The interface of the history. No method raises, or waits for a disk for long."""

    def status(self, status: DaemonStatus) -> None:
        """Record a status."""
        ...

    def action(self, action: ManagerAction) -> None:
        """Record a new action, or one that is verified now (same `id`)."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Why recording fails, such as a full disk."""
        ...
