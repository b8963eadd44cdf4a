"""The modes `gradual` and `dropcache` of WSL 2, re-implemented from their published rules. Pure.

Source: microsoft/WSL 49f841cc (2026-07-24), `src/linux/init/util.cpp`. It polls every 10 s. The guest is
idle if all CPUs together were at most 0.5 % busy over two minutes and in the last interval. Then
`dropcache` drops the caches once per idle period. `gradual` reclaims RAM/32 (256 MiB to 1 GiB) at each
poll, down to 128 MiB of cache. Memory is compacted when the guest becomes idle and after each reclaim.
The CPU counters are read again afterwards, so that these steps do not count as the guest's activity.
"""

from __future__ import annotations

from giveback_agent.policy.actions import BeginPass, Compact, DropCaches, EndPass, Reclaim
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.actions import Action
    from giveback_agent.policy.observation import GuestObservation, KernelCapabilities
    from giveback_agent.settings.table import AgentSettings
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.meminfo import MemInfo

MIB = 1 << 20
POLL_PERIOD_S = 10.0
WINDOW_INTERVALS = 12
BUSY_PER_MILLE = 5
FLOOR_BYTES = 128 * MIB
STEP_LEAST_BYTES = 256 * MIB
STEP_MOST_BYTES = 1024 * MIB
STEP_DIVISOR = 32
DROP_EVERYTHING = 3


class Interval(Record):
    """Busy and idle CPU ticks between two polls."""

    busy_ticks: int
    idle_ticks: int


class WslState(Record):
    """The window of the idle tracker, and the steps done in this idle period."""

    polled_s: float | None = None
    cpustat: CpuStat | None = None
    window: tuple[Interval, ...] = ()
    dropped: bool = False
    compacted: bool = False
    todo: tuple[Action, ...] = ()
    in_pass: bool = False


def decide(
    seen: GuestObservation, state: WslState, settings: AgentSettings, can: KernelCapabilities
) -> tuple[tuple[Action, ...], WslState]:
    """Return WSL's next step, at most one, and the new state. The mode `disabled` never acts."""
    now = seen.snapshot
    if settings.mode == "disabled" or seen.running is not None:
        return (), state
    if state.in_pass:
        if state.todo:
            return (state.todo[0],), replace(state, todo=state.todo[1:])
        # CPU time of our own steps must not count as the guest's.
        again = replace(state, in_pass=False, cpustat=now.cpustat, polled_s=now.monotonic_s)
        return (EndPass("done"),), again
    if state.polled_s is not None and 0 <= now.monotonic_s - state.polled_s < POLL_PERIOD_S:
        return (), state
    state = track(state, now.monotonic_s, now.cpustat)
    if not is_idle(state.window):
        if len(state.window) == WINDOW_INTERVALS and not _quiet(state.window):
            state = replace(state, dropped=False, compacted=False)
        return (), state
    todo, state = _due(state, settings, can, now.meminfo)
    if not todo:
        return (), state
    begin = BeginPass("idle by WSL's rules")
    return (begin, todo[0]), replace(state, todo=todo[1:], in_pass=True)


def track(state: WslState, now_s: float, cpustat: CpuStat) -> WslState:
    """Add the interval since the last poll; counters that ran backwards start the window again."""
    before = state.cpustat
    if before is None:
        return replace(state, polled_s=now_s, cpustat=cpustat)
    busy = cpustat.busy_ticks - before.busy_ticks
    idle = cpustat.idle_ticks + cpustat.iowait_ticks - before.idle_ticks - before.iowait_ticks
    if busy < 0 or idle < 0:
        return WslState(polled_s=now_s, cpustat=cpustat)
    window = (*state.window, Interval(busy, idle))[-WINDOW_INTERVALS:]
    return replace(state, polled_s=now_s, cpustat=cpustat, window=window)


def is_idle(window: tuple[Interval, ...]) -> bool:
    """Tell whether the window is complete and quiet, and its last interval is quiet too."""
    return len(window) == WINDOW_INTERVALS and _quiet(window) and _quiet(window[-1:])


def _quiet(window: tuple[Interval, ...]) -> bool:
    busy = sum([i.busy_ticks for i in window])
    total = busy + sum([i.idle_ticks for i in window])
    return busy * 1000 <= total * BUSY_PER_MILLE


def step_bytes(mem_total_bytes: int) -> int:
    """Return the bytes that `gradual` reclaims at a time."""
    return min(STEP_MOST_BYTES, max(STEP_LEAST_BYTES, mem_total_bytes // STEP_DIVISOR))


def _due(
    state: WslState, settings: AgentSettings, can: KernelCapabilities, memory: MemInfo
) -> tuple[tuple[Action, ...], WslState]:
    todo: list[Action] = []
    gradual = settings.mode == "gradual" and can.reclaim
    if gradual:
        cache = memory.file_bytes + memory.s_reclaimable_bytes
        if cache > FLOOR_BYTES:
            amount = min(cache - FLOOR_BYTES, step_bytes(memory.mem_total_bytes))
            todo.append(Reclaim("WSL gradual", amount, may_drop=True))
    elif not state.dropped and can.drop_caches:
        todo.append(DropCaches("WSL dropcache", what=DROP_EVERYTHING))
        state = replace(state, dropped=True)
    wanted = settings.page_reporting and settings.idle_threshold != 0 and can.compaction
    if wanted and (todo or not state.compacted) and can.reporting is not False:
        todo.append(Compact("WSL compaction"))
        state = replace(state, compacted=True)
    return tuple(todo), state
