"""WSL 2 since July 2026, by its published rule. Our re-implementation.

A thread at SCHED_IDLE samples every 10 s. The guest is idle if all CPUs together were at most 0.5 %
busy over 12 intervals, and in the last one. Then `dropcache` writes 3 to drop_caches once per idle
period; `gradual` requests RAM/32, within 256 MiB and 1 GiB, of the cache above 128 MiB from
memory.reclaim, from files alone. Memory is compacted when idleness begins and after each reclaim;
then the counters are read again, so that its own work does not count. A failed write is logged and
does not end the loop.

giveback's agent has the same rule as its modes, but it samples more data each time, so its CPU time
is not WSL's.

Source: microsoft/WSL 49f841cc, src/linux/init/util.cpp.
"""

from __future__ import annotations

import os
import time

from giveback_kernel import compaction, files, reclaim
from giveback_kernel.cpustat import read_cpustat
from giveback_kernel.errors import KernelFileError
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import Record, replace
from giveback_kernel.units import MIB
from giveback_lab_guest.strategies.loop import STARTED, become_idle_class, say, with_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.meminfo import MemInfo
    from giveback_lab_guest.strategies.loop import Stopping

RECLAIM_PATH = "/sys/fs/cgroup/memory.reclaim"


class WslGen2Rule(Record):
    """The constants. `mode` is dropcache or gradual."""

    mode: str
    period_s: float = 10.0
    intervals: int = 12
    busy_per_mille: int = 5
    floor_bytes: int = 128 * MIB
    step_divisor: int = 32
    step_least_bytes: int = 256 * MIB
    step_most_bytes: int = 1024 * MIB


class WslGen2State(Record):
    """(busy, total) ticks of the last intervals, and what was already done in this idle period."""

    last: CpuStat | None = None
    window: tuple[tuple[int, int], ...] = ()
    dropped: bool = False
    compacted: bool = False


class Steps(Record):
    """What to do now, in this order: reclaim `reclaim_bytes` or drop all caches, then compact."""

    reclaim_bytes: int = 0
    drop: bool = False
    compact: bool = False


RULES = {"wsl-gen2-dropcache": WslGen2Rule("dropcache"), "wsl-gen2-gradual": WslGen2Rule("gradual")}


def decide(
    rule: WslGen2Rule, state: WslGen2State, stat: CpuStat, memory: MemInfo
) -> tuple[Steps, WslGen2State]:
    """Return what to do at this sample, and the next state."""
    state = track(rule, state, stat)
    full = len(state.window) == rule.intervals
    if not full or not _quiet(rule, state.window):
        # A single busy interval does not end the idle period.
        return Steps(), replace(state, dropped=False, compacted=False) if full else state
    if not _quiet(rule, state.window[-1:]):
        return Steps(), state
    amount, drop = 0, False
    if rule.mode == "gradual":
        above = memory.file_bytes + memory.s_reclaimable_bytes - rule.floor_bytes
        step = memory.mem_total_bytes // rule.step_divisor
        step = min(rule.step_most_bytes, max(rule.step_least_bytes, step))
        amount = min(step, max(0, above))
    else:
        drop = not state.dropped
    compact = bool(amount) or drop or not state.compacted
    return Steps(amount, drop, compact), replace(state, dropped=True, compacted=True)


def track(rule: WslGen2Rule, state: WslGen2State, stat: CpuStat) -> WslGen2State:
    """Add the interval since the last sample; restart the window if counters went backwards."""
    before = state.last
    if before is None:
        return replace(state, last=stat)
    busy = stat.busy_ticks - before.busy_ticks
    idle = stat.idle_ticks + stat.iowait_ticks - before.idle_ticks - before.iowait_ticks
    if busy < 0 or idle < 0:
        return WslGen2State(last=stat)
    window = (*state.window, (busy, busy + idle))[-rule.intervals :]
    return replace(state, last=stat, window=window)


def _quiet(rule: WslGen2Rule, window: tuple[tuple[int, int], ...]) -> bool:
    busy = sum([interval[0] for interval in window])
    return busy * 1000 <= sum([interval[1] for interval in window]) * rule.busy_per_mille


def serve(root: str, name: str, options: list[str], stopping: Stopping) -> None:
    """Run until told to stop. Raises KernelFileError if /proc cannot be read."""
    rule = with_options(RULES[name], options)
    if rule.mode == "gradual" and not os.access(files.under(root, RECLAIM_PATH), os.W_OK):
        say("no memory.reclaim: dropcache instead, as WSL does")
        rule = replace(rule, mode="dropcache")
    become_idle_class()
    say(STARTED)
    state = WslGen2State(last=read_cpustat(root))
    next_s = time.monotonic() + rule.period_s
    while not stopping.wait_until(next_s):
        steps, state = decide(rule, state, read_cpustat(root), read_meminfo(root))
        try:
            _do(root, steps)
        except KernelFileError as error:
            say(str(error))
        if steps != Steps():
            state = replace(state, last=read_cpustat(root))
        next_s = time.monotonic() + rule.period_s


def _do(root: str, steps: Steps) -> None:
    if steps.drop:
        say("drop all caches")
        reclaim.drop_caches(root, reclaim.DROP_BOTH)
    if steps.reclaim_bytes:
        result = reclaim.reclaim(root, RECLAIM_PATH, steps.reclaim_bytes, 0)
        say(f"reclaim {steps.reclaim_bytes >> 20} MiB: {result.outcome}")
        if result.outcome not in (reclaim.DONE, reclaim.PARTIAL):
            return
    if steps.compact:
        say("compact")
        compaction.compact_all(root)
