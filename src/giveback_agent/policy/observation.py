"""The input of a decision: the guest at one moment, the agent's running step, the kernel's capabilities."""

from __future__ import annotations

from giveback_agent.policy.activity.idleness import Stalls
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.activity.idleness import Activity
    from giveback_agent.settings.table import AgentSettings
    from giveback_kernel.buddyinfo import BuddyInfo
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.vmstat import VmStat

# How badly the host needs memory, 0 to 3. Without a host manager: ALONE.
URGENCY_NONE, URGENCY_ALONE, URGENCY_TIGHT, URGENCY_STARVING = 0, 1, 2, 3
# How cold cache is found and reclaimed (release/cache/cold_cache.py): by the multi-gen LRU's generations, by
# the LRU lists of each cgroup, by memory.high, or not at all.
GENERATIONS, LISTS, LIMITS, NO_METHOD = "generations", "lists", "limits", "none"


class Snapshot(Record):
    """The guest at one moment. A field is None if the kernel or this user's rights do not provide it.

    `report_order` is the effective one. It splits the buddy allocator's free bytes into
    `reportable_bytes` and `trapped_bytes`. `cache_bytes` is the page cache that reclaim can reach.
    `cold_cache_bytes` is the part of it that is clean and on the inactive list: an upper estimate of
    what the workload would not read again soon. `vmstat`, `below_low_watermark` and `pcp_bytes` (free
    bytes on per-CPU lists) are read only with `detail`.
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
        """Bytes that programs' memory and cached files occupy."""
        memory = self.meminfo
        return memory.anon_pages_bytes + memory.shmem_bytes + memory.file_bytes


class StepOutcome(Record):
    """The end of a step of this `kind`: `ok`, failed, or `abandoned` by the agent."""

    kind: str
    ok: bool
    abandoned: bool = False
    took_s: float = 0.0
    cpu_s: float = 0.0


class KernelCapabilities(Record):
    """The kernel interfaces that this process can use. Probed, never derived from a version.

    `reporting` None: unknown. `order` is the effective report order. `fast_reports`: the kernel's delay
    of 2 s between reporting cycles can be shortened, so that all small blocks are reported in seconds.
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
    """The guest, how busy it is, the step that runs in it, and the outcome of the last one.

    `running` is the kind of the running step. `lowered`: the agent has lowered the report order, or may
    have. `reports` is the number of reports that the kernel has made to the host; None if that cannot be
    seen. `ended_bytes` is the measured file cache of cgroups that ended since the last pass. `stalls` and
    `own_cpu_s` (CPU seconds of the agent and of all that it started) are totals at this moment: their
    increase is the cost of a step in a busy guest. `kept_cache_bytes` of cache stay because the host
    asked for a smaller amount than there is.
    """

    snapshot: Snapshot
    activity: Activity
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
    """The whole input of one decision of the adaptive policy; constant while it decides.

    `last` is the guest at the end of the last pass. `learned_floor_bytes` is inactive cache that is kept
    because refaults have shown that it is in use. `may_take_ended`: cache of ended cgroups may be
    reclaimed, as it was not read again after the last time.
    """

    seen: GuestObservation
    settings: AgentSettings
    can: KernelCapabilities
    last: Snapshot | None = None
    learned_floor_bytes: int = 0
    may_take_ended: bool = True

    @property
    def now(self) -> Snapshot:
        """The guest at this tick."""
        return self.seen.snapshot

    @property
    def presses(self) -> bool:
        """Whether the host needs more than a guest returns without being asked (urgency 2 and 3)."""
        return self.seen.urgency > URGENCY_ALONE

    @property
    def reports(self) -> bool:
        """Whether free memory is reported to the host, and the settings allow it."""
        return not why_not_reported(self.can.reporting, self.settings.page_reporting)

    @property
    def deep_order(self) -> int | None:
        """The report order of a deep report; None if the order cannot be lowered."""
        order, lowest = self.can.order, self.settings.lowest_report_order
        if not self.can.order_settable or order is None or lowest >= order:
            return None
        return lowest


def cold_cache_bytes(memory: MemInfo) -> int:
    """Estimate the cold page cache in bytes: the inactive file list minus dirty and writeback pages."""
    return max(0, memory.inactive_file_bytes - memory.dirty_bytes - memory.writeback_bytes)


def why_not_reported(active: bool | None, allowed: bool = True) -> str:
    """Return why free memory of this guest does not go back to its host as far as known; "" if it does.

    The service, `release`, `status` and `doctor` print this text. `active` is that of
    giveback_kernel.page_reporting.ReportingState: None means unknown. `allowed`: the settings permit it.
    """
    if active is None:
        return "cannot see whether free page reporting is active in this guest"
    if not active:
        return "free page reporting is not active in this guest"
    return "" if allowed else "the settings forbid it (pageReporting)"
