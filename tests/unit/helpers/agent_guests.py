"""Snapshots of guests that never were, for tests of what decides."""

from __future__ import annotations

from typing import Any

from giveback_agent.policy.activity import idleness
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    GuestObservation,
    KernelCapabilities,
    Snapshot,
    StepOutcome,
)
from giveback_kernel.buddyinfo import BuddyInfo, ZoneBlocks
from giveback_kernel.cpustat import CpuStat
from giveback_kernel.meminfo import MemInfo
from giveback_kernel.vmstat import VmStat

MIB = 1 << 20
ABLE = KernelCapabilities(
    reporting=True,
    order=9,
    order_settable=True,
    reclaim=True,
    drop_caches=True,
    compaction=True,
    cold_method="generations",
    drain=True,
)


def memory(total: int = 2048, free: int = 800, cache: int = 600, available: int = 1400) -> MemInfo:
    """A guest's meminfo; sizes in MiB."""
    zero: dict[str, Any] = dict.fromkeys(MemInfo._fields, 0)
    for name in MemInfo._defaults:
        zero.pop(name, None)
    known = {
        "mem_total_bytes": total * MIB,
        "mem_free_bytes": free * MIB,
        "mem_available_bytes": available * MIB,
        "inactive_file_bytes": cache * MIB,
    }
    fields: dict[str, Any] = {**zero, **known}
    return MemInfo(**fields)


def cpu(busy_ticks: int, idle_ticks: int, cpus: int = 2) -> CpuStat:
    """Counters after so many ticks."""
    return CpuStat(busy_ticks, 0, 0, idle_ticks, 0, 0, 0, 0, cpus)


def snapshot(
    now_s: float,
    free: int = 800,
    cache: int = 600,
    trapped: int = 300,
    available: int = 1400,
    refaults: int | None = 0,
    low: bool = False,
    pcp: int | None = None,
) -> Snapshot:
    """A 2 GiB guest at `now_s`; sizes in MiB."""
    return Snapshot(
        monotonic_s=now_s,
        meminfo=memory(free=free, cache=cache, available=available),
        cpustat=cpu(0, 0),
        cache_bytes=cache * MIB,
        cold_cache_bytes=cache * MIB,
        buddy=BuddyInfo((ZoneBlocks(0, "Normal", (0,) * 11),), 4096),
        report_order=9,
        reportable_bytes=max(0, free - trapped) * MIB,
        trapped_bytes=trapped * MIB,
        vmstat=None if refaults is None else VmStat(0, workingset_refault_file=refaults),
        below_low_watermark=low,
        pcp_bytes=None if pcp is None else pcp * MIB,
    )


def observation(
    now: Snapshot,
    level: str = idleness.IDLE,
    urgency: int = URGENCY_ALONE,
    running: str | None = None,
    outcome: StepOutcome | None = None,
    lowered: bool = False,
    work_cpu_s: float = 0.0,
) -> GuestObservation:
    """What the policy sees of `now`."""
    state = idleness.Activity(
        at_s=now.monotonic_s,
        level=level,
        spare_since_s=None if level == idleness.BUSY else now.monotonic_s - 60,
        busy_percent={idleness.IDLE: 1.0, idleness.SPARE: 50.0}.get(level, 95.0),
        work_cpu_s=work_cpu_s,
    )
    return GuestObservation(now, state, urgency, running, outcome, lowered)
