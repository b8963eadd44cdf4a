"""What a decision rests on: the guest at one moment, what the agent does in it, and what it may do there."""

from __future__ import annotations

from giveback_agent.policy.activity.idleness import Stalls
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.activity.idleness import GateState
    from giveback_agent.settings.table import AgentSettings
    from giveback_kernel.buddyinfo import BuddyInfo
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.vmstat import VmStat

# How badly the host needs memory. Without a host manager: ALONE.
URGENCY_CALM, URGENCY_ALONE, URGENCY_TIGHT, URGENCY_STARVING = 0, 1, 2, 3
# How cold cache is found and taken (release/cache/cold_cache.py): by the multi-gen LRU's generations, by the
# lists of each cgroup, by memory.high, or not at all.
GENERATIONS, LISTS, LIMITS, NO_METHOD = "generations", "lists", "limits", "none"


class Snapshot(Record):
    """The guest at one moment. None where the kernel, or this user's rights, do not tell.

    `report_order` is the effective one. `reportable_bytes` and `trapped_bytes` split the buddy
    allocator's free bytes by it. `cache_bytes` is what reclaim can reach of the page cache;
    `cold_cache_bytes` the part of it that is clean and on the inactive list, an upper estimate of
    what the workload would not read again soon. `vmstat`, `below_low_watermark` and `pcp_bytes` (free
    on per-CPU lists) are there where `detail` was asked for.
    """

    monotonic_s: float
    meminfo: MemInfo
    cpustat: CpuStat
    cache_bytes: int
    cold_cache_bytes: int
    buddy: BuddyInfo | None = None
    report_order: int | None = None
    reportable_bytes: int | None = None
    trapped_bytes: int | None = None
    vmstat: VmStat | None = None
    below_low_watermark: bool | None = None
    pcp_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        """Bytes that programs and files occupy."""
        memory = self.meminfo
        return memory.anon_pages_bytes + memory.shmem_bytes + memory.file_bytes


class StepOutcome(Record):
    """How a step ended: `ok`, or failed, or `abandoned` by the agent. `kind` is the step's."""

    kind: str
    ok: bool
    abandoned: bool = False
    took_s: float = 0.0
    cpu_s: float = 0.0


class KernelCapabilities(Record):
    """What this kernel lets this process do; probed once at the start, never guessed by version.

    `fast_reports`: it can be made to report without its delay of 2 s, so that all small pieces are
    reported within seconds.
    """

    reporting: bool | None
    order: int | None
    order_settable: bool
    reclaim: bool
    drop_caches: bool
    compaction: bool
    cold_method: str = NO_METHOD
    drain: bool = False
    cold_anon: bool = False
    fast_reports: bool = False


class GuestObservation(Record):
    """The guest, how busy it is, which step runs in it, and what came of the last one.

    `running` is the kind of the step that runs. `lowered`: the report order may be lowered by the agent.
    `reports` counts the reports that the kernel has made to the host, where that is seen. `ended_bytes`:
    file cache of cgroups that have ended since the last pass, as far as it was measured. `stalls` and
    `own_cpu_s`, the CPU time of the agent and of all that it started, are as at this moment: they are what
    a step in a guest at work costs. `kept_cache_bytes`: so much cache stays,
    as the host wants no more than a part of it.
    """

    snapshot: Snapshot
    gate: GateState
    urgency: int = URGENCY_ALONE
    running: str | None = None
    outcome: StepOutcome | None = None
    lowered: bool = False
    reports: int | None = None
    ended_bytes: int = 0
    stalls: Stalls = Stalls()
    own_cpu_s: float = 0.0
    kept_cache_bytes: int = 0


class Tick(Record):
    """All that one decision of the adaptive policy rests on, which no step of it changes.

    `last` is the guest at the end of the last pass, `learned_floor_bytes` the cold-looking cache that
    refaults have shown to be in use. `may_take_ended`: no take from ended cgroups was regretted lately.
    """

    seen: GuestObservation
    settings: AgentSettings
    can: KernelCapabilities
    last: Snapshot | None = None
    learned_floor_bytes: int = 0
    may_take_ended: bool = True

    @property
    def now(self) -> Snapshot:
        """The guest now."""
        return self.seen.snapshot

    @property
    def presses(self) -> bool:
        """Whether the host needs more than a guest gives by itself."""
        return self.seen.urgency > URGENCY_ALONE

    @property
    def reports(self) -> bool:
        """Whether free memory is reported to the host, and may be."""
        return not why_not_reported(self.can.reporting, self.settings.page_reporting)

    @property
    def deep_order(self) -> int | None:
        """The report order for a deep report; None where the order cannot be lowered."""
        order, lowest = self.can.order, self.settings.lowest_report_order
        if not self.can.order_settable or order is None or lowest >= order:
            return None
        return lowest


def cold_cache_bytes(memory: MemInfo) -> int:
    """Estimate the cold page cache: the inactive file list without what must be written first."""
    return max(0, memory.inactive_file_bytes - memory.dirty_bytes - memory.writeback_bytes)


def why_not_reported(active: bool | None, allowed: bool = True) -> str:
    """Return why this guest's free memory is not known to go back to its host, or "" where it goes.

    The words are those of the service, `release`, `status` and `doctor`.
    `active` is that of giveback_kernel.page_reporting.ReportingState: None where it cannot be told.
    `allowed`: the settings permit it.
    """
    if active is None:
        return "it cannot be seen whether free page reporting is active in this guest"
    if not active:
        return "free page reporting is not active in this guest"
    return "" if allowed else "the settings forbid it (pageReporting)"
