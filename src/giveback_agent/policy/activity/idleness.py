"""When may the agent act: idle is spare CPU and no stall, not 0.5 % busy.

WSL's gate (0.5 % of all CPUs for two minutes) is never reached on a machine with an editor open
(microsoft/WSL#10011). Here an interval is judged by the CPU that the guest's own work used, with the
agent's share taken out, and by the time that work stood still for want of memory or I/O.
"""

from __future__ import annotations

from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.pressure import Pressure

BUSY = "busy"
SLACK = "slack"
IDLE = "idle"
# Why a pass is stopped.
GOT_BUSY = "the guest got busy"

# Above this share of all CPUs even steps at SCHED_IDLE would be felt (shared caches, TLB flushes).
BUSY_PERCENT = 60
# Busier than this, a guest has no CPU to spare for any step.
SPARE_BUSY_PERCENT = 90
# Steps in a guest at work wait until it has had CPU to spare for so long.
SLACK_WINDOW_S = 10.0
MEMORY_STALL_PERCENT = 2.0
IO_STALL_PERCENT = 15.0
# Beyond so many windows an interval does not tell when in it the work was.
LONG_WINDOWS = 2
# So little work in an interval changes nothing that a pass could be worth it for.
QUIET_WORK_S = 0.03
# Where work stalls for memory for this part of the time, nothing is taken. senpai aims at 0.1 %.
TARGET_STALL_PERCENT = 0.5
# The work of an interval shorter than this is noise: one tick is 10 ms.
SHORTEST_INTERVAL_S = 0.5


class Stalls(Record):
    """Total microseconds that some task stood still; None where the kernel has no PSI.

    `memory_full_us`: that all tasks did which were not idle. A step's own waiting is not in it while
    others work.
    """

    memory_us: int | None = None
    io_us: int | None = None
    memory_full_us: int | None = None


class GateState(Record):
    """What the gate remembers: the last look, since when it has been calm, and the work seen.

    `slack_since_s`: since when it has had CPU to spare, and has not stalled. `memory_stall_percent` is the
    part of the last interval in which some of its work stood still for want of memory, and
    `short_of_memory` says that this was much.
    """

    at_s: float | None = None
    cpustat: CpuStat | None = None
    stalls: Stalls = Stalls()
    calm_since_s: float | None = None
    slack_since_s: float | None = None
    level: str = BUSY
    busy_percent: float = 100.0
    work_cpu_s: float = 0.0
    short_of_memory: bool = False
    memory_stall_percent: float = 0.0


def stalls_of(memory: Pressure | None, io: Pressure | None) -> Stalls:
    """The totals that the gate looks at."""
    return Stalls(
        memory.some.total_us if memory else None,
        io.some.total_us if io else None,
        memory.full.total_us if memory and memory.full else None,
    )


def look(
    state: GateState,
    now_s: float,
    cpustat: CpuStat,
    own_cpu_s: float,
    stalls: Stalls,
    idle_busy_percent: float,
    window_s: float,
    ticks_per_s: int,
    system_is_ours: bool = False,
) -> GateState:
    """Judge the interval since the last look and return the new state.

    `own_cpu_s` is what the agent and its workers used in it. `system_is_ours` says that the kernel
    works for the agent now (a pass of reporting at a low order runs in a kernel worker): then only
    user time counts as the guest's work. The work of a long interval may all have been at its end: where
    that would not be calm, calm begins now. A clock or a counter that ran backwards starts anew.
    """
    if state.at_s is None or state.cpustat is None:
        return replace(state, at_s=now_s, cpustat=cpustat, stalls=stalls)
    interval_s = now_s - state.at_s
    if interval_s < SHORTEST_INTERVAL_S:
        if interval_s < 0:
            return GateState(
                at_s=now_s, cpustat=cpustat, stalls=stalls, work_cpu_s=state.work_cpu_s
            )
        return state
    used_s = _used_s(state.cpustat, cpustat, ticks_per_s, system_is_ours)
    if used_s is None:
        return GateState(at_s=now_s, cpustat=cpustat, stalls=stalls, work_cpu_s=state.work_cpu_s)
    work_s = max(0.0, used_s - own_cpu_s)
    percent = min(100.0, 100.0 * work_s / (interval_s * max(1, cpustat.cpus)))
    stalled = _stalled(state.stalls, stalls, interval_s)
    calm = percent <= idle_busy_percent and not stalled
    calm_since = _since(state.calm_since_s, state.at_s, calm)
    slack_since = _since(state.slack_since_s, state.at_s, has_spare_cpu(percent) and not stalled)
    if interval_s > LONG_WINDOWS * window_s:
        at_its_end = 100.0 * work_s / (window_s * max(1, cpustat.cpus))
        if calm_since is not None and at_its_end > idle_busy_percent:
            calm_since = now_s
        if slack_since is not None and not has_spare_cpu(at_its_end):
            slack_since = now_s
    is_idle = calm_since is not None and now_s - calm_since >= window_s
    level = IDLE if is_idle else SLACK if percent <= BUSY_PERCENT and not stalled else BUSY
    if state.level == IDLE and level != IDLE and slack_since is not None:
        # Work has just begun, and what it will be is not known yet.
        slack_since = now_s
    stall_percent = _percent(state.stalls.memory_us, stalls.memory_us, interval_s)
    return GateState(
        now_s, cpustat, stalls, calm_since, slack_since, level, percent, state.work_cpu_s + work_s,
        stall_percent > MEMORY_STALL_PERCENT, stall_percent,
    )  # fmt: skip


def is_quiet(state: GateState, cpustat: CpuStat, own_cpu_s: float, ticks_per_s: int) -> bool:
    """Tell whether an idle guest has done so little since the last look that nothing can have changed.

    To read or to free what a pass would be worth takes more CPU time than that.
    """
    if state.level != IDLE or state.cpustat is None:
        return False
    used_s = _used_s(state.cpustat, cpustat, ticks_per_s, user_only=False)
    return used_s is not None and used_s - own_cpu_s <= QUIET_WORK_S


def has_slack(state: GateState) -> bool:
    """Spare CPU and no stall for long enough that a small step will not be felt."""
    if state.at_s is None or state.slack_since_s is None:
        return False
    return state.at_s - state.slack_since_s >= SLACK_WINDOW_S


def has_spare_cpu(busy_percent: float) -> bool:
    """Tell whether so busy a guest has CPU to spare for a step that runs at SCHED_IDLE."""
    return busy_percent < SPARE_BUSY_PERCENT


def why_no_step(gate: GateState) -> str:
    """Return why a guest that is not idle is left alone for now, or "" where a step may be made."""
    if not has_spare_cpu(gate.busy_percent):
        return f"busy at {gate.busy_percent:.0f} %: steps need a tenth of the CPUs to spare"
    if gate.memory_stall_percent >= TARGET_STALL_PERCENT:
        return f"its work waits for memory {gate.memory_stall_percent:.1f} % of the time"
    if gate.slack_since_s is None:
        return "its work waits for its disk"
    if gate.calm_since_s is not None:
        return "it is about to be idle"
    if not has_slack(gate):
        return f"it has had CPU to spare for less than {SLACK_WINDOW_S:.0f} s"
    return ""


def _since(since_s: float | None, at_s: float, holds: bool) -> float | None:
    if not holds:
        return None
    return at_s if since_s is None else since_s


def _used_s(before: CpuStat, after: CpuStat, ticks_per_s: int, user_only: bool) -> float | None:
    user = after.user_ticks + after.nice_ticks - before.user_ticks - before.nice_ticks
    system = (
        after.system_ticks + after.irq_ticks + after.softirq_ticks + after.steal_ticks
        - before.system_ticks - before.irq_ticks - before.softirq_ticks - before.steal_ticks
    )  # fmt: skip
    if user < 0 or system < 0:
        return None
    return (user if user_only else user + system) / ticks_per_s


def _stalled(before: Stalls, after: Stalls, interval_s: float) -> bool:
    return _over(before.memory_us, after.memory_us, interval_s, MEMORY_STALL_PERCENT) or _over(
        before.io_us, after.io_us, interval_s, IO_STALL_PERCENT
    )


def _over(before_us: int | None, after_us: int | None, interval_s: float, percent: float) -> bool:
    return _percent(before_us, after_us, interval_s) > percent


def _percent(before_us: int | None, after_us: int | None, interval_s: float) -> float:
    if before_us is None or after_us is None:
        return 0.0
    return max(0.0, (after_us - before_us) / (interval_s * 10_000))
