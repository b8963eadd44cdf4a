"""The manager's data: what is known, what is decided, what came of it. No behaviour.

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
"""0: memory is plenty, keep caches. 1: a guest's own policy. 2: warm cache too. 3: all that can go."""
NEAR_DIVISOR = 256
"""So small a part of what was wanted may be missing."""


class UrgencyBy(StrEnum):
    """Who set a guest's urgency."""

    HOST = "host"
    """The arbiter, by the state of the host."""
    RECLAIM = "reclaim"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class GuestView:
    """What the arbiter may know of a VM: measured on the host, or a guest's word, bounded by it.

    `trapped_bytes` (residue), `cold_bytes` and `warm_bytes` are disjoint and add up to at most
    resident - needed; the last may not be taken without refaults. `fresh` is False where the
    guest's side is too old to act upon. `reliability`: 1 where all that was promised came back.
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
    """The guest itself is short of memory: it is asked for nothing."""
    reliability: float = 1.0
    proven_bytes: int = 0
    """What it returned when it was last asked, by the host's own count: for so much it is believed."""
    asked_at_s: float | None = None
    may_press: bool = True
    """False where a manual urgency holds: `reclaim` does not ask it, whose urgency would not be sent."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One guest is to be told this urgency, and is expected to return so many bytes."""

    key: str
    urgency: int
    goal_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What the arbiter wants now. `trouble_in_s` is None where nothing is running out."""

    urgency: int
    deficit_bytes: int
    trouble_in_s: float | None
    asks: tuple[Ask, ...]
    reason: str
    look_again_s: float
    """How soon the host should be looked at again: need sets the rate."""
    calm_urgency: int = 0
    """What a guest hears that nothing is asked of; alone its agent would act as at 1."""


class ActionKind(StrEnum):
    """What the manager did to a VM."""

    ASK = "ask"
    BALLOON = "balloon"
    DEFLATE = "deflate"
    VIRTIO_MEM = "virtio-mem"
    RECLAIM = "reclaim"


@dataclass(frozen=True, slots=True)
class RecordedAction:
    """One thing that was done, and what came of it once that is known, as the history keeps it.

    `kind` is any text: a daemon of another version may have written it.
    """

    id: int
    wall_s: float
    vm: str
    kind: str
    urgency: int
    expected_bytes: int
    reason: str
    measured_bytes: int | None = None
    """None until verified: resident before less resident after, by the host's own count."""
    verdict: str = ""
    """Why it came short, in words; "" where it did not."""


@dataclass(frozen=True, slots=True)
class ManagerAction(RecordedAction):
    """One thing that this daemon did, and what came of it once that is known."""

    kind: ActionKind
    took_s: float | None = None
    """From the action to its verdict; None until verified."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Memory taken from a guest by a device, to be let go of whatever happens. Written to disk."""

    vm: str
    pid: int
    start_ticks: int
    """/proc/PID/stat's start time: a pid is not a VM for ever."""
    device: ActionKind
    control: str
    before_bytes: int
    target_bytes: int
    """What the guest keeps (balloon), or is to have plugged (virtio-mem): before, and since."""
    wall_s: float
    device_id: str = ""
    """Which of the VM's devices of that kind, where it may have several."""
    most_bytes: int = 0
    """What the guest could have without its balloon, then; 0: not known. More may be plugged in."""


class VmCondition(StrEnum):
    """How a VM stands with the manager."""

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
    """Left alone by its settings, so that whether it keeps promises is not judged."""


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
    """The host's charge for each ledger row that it holds, by `ledger.Key`'s name in lower case."""
    ram_rows: Mapping[str, int] = field(default_factory=dict)
    """The part of the VM's RAM of each ledger row that has one, by the same names."""
    unknown: str = ""
    """Why residue and needed are not known, in one line; "" where they are."""
    in_use_bytes: int | None = None
    """Needed without clean page cache."""
    cache_bytes: int | None = None
    """Clean page cache that the host holds."""
    returned_bytes: int | None = None
    """Free memory that the host held once and holds no more."""
    own_bytes: int | None = None
    """The VMM's own memory, and its page tables."""
    charged_bytes: int | None = None
    """All that the host charges for the VM."""
    reporting: str = ""
    """How far free page reporting has come: on, offered, not taken, off, no device, blocked or ?."""
    guest_source: str = ""
    sampled_age_s: float | None = None
    urgency: int | None = None
    urgency_by: str | None = None
    """Who set it: `host` (the arbiter), `reclaim` or `manual`."""
    urgency_left_s: float | None = None
    """How long a manual urgency or `reclaim`'s still holds; None for the arbiter's, which has no end."""
    lease_left_s: float | None = None
    reliability: float | None = None
    """The part of what it promised that came back; None until something was judged."""
    cache_floor_bytes: int | None = None
    """Cache that its agent leaves it in any case; None: it does not tell."""
    learned_floor_bytes: int | None = None
    """Cache that its agent keeps at urgency 1, because it was read again; None: it does not tell."""
    returnable_bytes: int | None = None
    """What could come back in all: residue, cold and warm. Whether it can be asked is its condition."""
    cold_bytes: int | None = None
    warm_bytes: int | None = None
    """Cache beyond the agent's floor: what goes at urgency 1, and what goes only at 2 and 3."""
    balloon_lease_bytes: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    """How often what went wrong, by a bounded set of words."""
    doctor: tuple[str, ...] = ()
    uid: int | None = None
    """Of the user that the VMM runs as. Names are looked up by who shows them: that may take long."""
    label: str = ""
    """Whose use of memory it counts as, from the settings; "" where they set none."""
    host_percent: float | None = None
    """Resident RAM, of the host's RAM."""
    cpu_percent: float | None = None
    """Of one CPU, since the sample before; of one sample alone, since the VMM was started."""
    uptime_s: float | None = None
    swap_bytes: int | None = None
    """What of the VMM is swapped out, its guest's RAM included."""
    swap_in_bytes_per_s: float | None = None
    swap_out_bytes_per_s: float | None = None
    """By how much less or more of its anonymous memory is swapped out than at the sample before; None
    until there are two."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """All that the manager knows, at one moment: what every surface is made from."""

    wall_s: float
    started_wall_s: float
    host: HostView | None
    decision: Decision | None
    vms: tuple[VmStatus, ...]
    actions: tuple[ManagerAction, ...]
    """The last ones, newest last; bounded."""
    leases: tuple[Lease, ...]
    errors: Mapping[str, int]
    """The manager's own (history, settings, sockets), by a bounded set of words."""
    problems: tuple[str, ...]
    """The manager's own."""
    settings_source: str
    vm_problems: tuple[str, ...] = ()
    """What is wrong with which VM, and why, as every surface lists it."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What one VM was asked for by a `reclaim`, and what it returned from then on."""

    vm: str
    expected_bytes: int
    returned_bytes: int
    words: str
    """Why it was not asked, or came short, or would give what at which cost; "" otherwise."""
    urgency: int | None = None
    """The last urgency that it was asked with; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """What came of `giveback reclaim`; of a dry run, what would be asked of which VM first."""

    goal_bytes: int
    returned_bytes: int
    """By the VMs that were asked, each from the moment that it was asked."""
    took_s: float
    parts: tuple[Returned, ...]
    most_bytes: int = 0
    """The most that could come from the VMs that can be asked: 0 where none can."""
    others_returned_bytes: int = 0
    """What other VMs returned by themselves meanwhile."""
    grown_bytes: int = 0
    """By how much VMs grew meanwhile, whether they were asked or not."""
    available_before_bytes: int | None = None
    available_after_bytes: int | None = None
    """What the host had available before and after; None where it was not sampled."""
    dry_run: bool = False

    @property
    def reached(self) -> bool:
        """Whether it came, but for so little that resident memory moves by itself."""
        return is_reached(self.returned_bytes, self.goal_bytes)


def is_reached(came_bytes: int, goal_bytes: int) -> bool:
    """Tell whether as good as all of a goal came: a few pages come and go by themselves."""
    return came_bytes >= goal_bytes - goal_bytes // NEAR_DIVISOR


class Manager(Protocol):
    """What the surfaces (API, metrics) may ask of the running manager."""

    def status(self) -> DaemonStatus:
        """The latest picture; never touches a VM."""
        ...

    async def reclaim(
        self, goal_bytes: int, within_s: float, vms: Sequence[str] = (), *, dry_run: bool = False
    ) -> ReclaimResult:
        """Free memory now, or only plan it. Raises InputError for a VM that does not exist."""
        ...

    async def set_urgency(self, vm: str, urgency: int, lease_s: float) -> None:
        """Tell one guest an urgency by hand. Raises InputError, VmError."""
        ...


class HistoryRecorder(Protocol):
    """What keeps the past. No method raises, none waits for a disk for long."""

    def status(self, status: DaemonStatus) -> None: ...

    def action(self, action: ManagerAction) -> None:
        """A new action, or the same one again once it is verified (same `id`)."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps it from recording, such as a full disk."""
        ...
