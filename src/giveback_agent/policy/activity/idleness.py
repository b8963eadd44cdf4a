"""The idleness detector: idle means spare CPU and no stall, not 0.5 % busy.

WSL's threshold (0.5 % of all CPUs for two minutes) is never met on a machine with an editor open
(microsoft/WSL#10011). Here an interval is judged by the CPU time of the guest's own workload, without the
agent's, and by the time in which tasks stalled for memory or I/O (PSI).
"""

from __future__ import annotations

from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.cpustat import CpuStat
    from giveback_kernel.pressure import Pressure

# The values of `level` in status.json: busy, with spare CPU for small steps, idle.
BUSY = "busy"
SPARE = "slack"
IDLE = "idle"
# Why a pass is stopped.
GOT_BUSY = "the guest got busy"

# With more of all CPUs busy, even steps at SCHED_IDLE disturb (shared caches, TLB flushes).
BUSY_PERCENT = 60
# From here on a guest has no CPU to spare for any step.
SPARE_BUSY_PERCENT = 90
# A step in a busy guest waits until the guest has had spare CPU for this long.
SPARE_WINDOW_S = 10.0
MEMORY_STALL_PERCENT = 2.0
IO_STALL_PERCENT = 15.0
# An interval longer than this many windows does not show at which time in it the guest was busy.
LONG_WINDOWS = 2
# This many CPU seconds in an interval change too little memory for a pass to be worth it.
QUIET_WORK_S = 0.03
# The end of the workload, whatever it was: idle for this long. A shorter pause may be one of its own.
PAUSE_S = 15.0
# A pause of less than 1/10 of the time that the workload has taken so far is one of its own.
PAUSE_DIVISOR = 10
# No step if tasks stall for memory for this part of the time. senpai aims at 0.1 %.
TARGET_STALL_PERCENT = 0.5
# CPU times of an interval shorter than this are noise: one tick is 10 ms.
SHORTEST_INTERVAL_S = 0.5


class Stalls(Record):
    """Total microseconds in which at least one task stalled (PSI `some`); None if the kernel has no PSI.

    `memory_full_us`: in which all non-idle tasks stalled (PSI `full`). The waiting of the agent's own
    step is not part of it while other tasks run.
    """

    memory_us: int | None = None
    io_us: int | None = None
    memory_full_us: int | None = None


class Activity(Record):
    """The guest's activity, as the idleness detector judged it at `at_s` (monotonic seconds).

    `idle_since_s`: since when each interval was below the idle threshold and without a stall; None if the
    last was not. `spare_since_s`: the same for spare CPU. `level` is IDLE once that has lasted a window.
    `work_since_s`: when the workload began, with all its pauses below PAUSE_S; None if it has ended.
    `work_cpu_s` adds up the CPU seconds of the workload. `memory_stall_percent` is the part of the last
    interval in which some task stalled for memory; `short_of_memory`: it was over MEMORY_STALL_PERCENT.
    """

    at_s: float | None = None
    cpustat: CpuStat | None = None
    stalls: Stalls = Stalls()
    idle_since_s: float | None = None
    spare_since_s: float | None = None
    level: str = BUSY
    busy_percent: float = 100.0
    work_cpu_s: float = 0.0
    short_of_memory: bool = False
    memory_stall_percent: float = 0.0
    work_since_s: float | None = None


def stalls_of(memory: Pressure | None, io: Pressure | None) -> Stalls:
    """Return the PSI totals that the idleness detector uses."""
    return Stalls(
        memory.some.total_us if memory else None,
        io.some.total_us if io else None,
        memory.full.total_us if memory and memory.full else None,
    )


def judge(
    state: Activity,
    now_s: float,
    cpustat: CpuStat,
    own_cpu_s: float,
    stalls: Stalls,
    idle_busy_percent: float,
    window_s: float,
    ticks_per_s: int,
    system_is_ours: bool = False,
) -> Activity:
    """Judge the interval since the last sample and return the new state.

    `own_cpu_s`: CPU seconds of the agent and its workers in the interval. `system_is_ours`: the kernel
    works for the agent now (reporting at a low order runs in a kernel worker), so that only user time
    counts as the workload's. All CPU time of a long interval may have been used at its end: if the guest
    would then not be idle, idleness begins only now. The state starts again after a clock or a counter
    that ran backwards.
    """
    if state.at_s is None or state.cpustat is None:
        return replace(state, at_s=now_s, cpustat=cpustat, stalls=stalls)
    interval_s = now_s - state.at_s
    if interval_s < SHORTEST_INTERVAL_S:
        if interval_s < 0:
            return Activity(at_s=now_s, cpustat=cpustat, stalls=stalls, work_cpu_s=state.work_cpu_s)
        return state
    used_s = _used_s(state.cpustat, cpustat, ticks_per_s, system_is_ours)
    if used_s is None:
        return Activity(at_s=now_s, cpustat=cpustat, stalls=stalls, work_cpu_s=state.work_cpu_s)
    work_s = max(0.0, used_s - own_cpu_s)
    percent = min(100.0, 100.0 * work_s / (interval_s * max(1, cpustat.cpus)))
    stalled = _stalled(state.stalls, stalls, interval_s)
    idle = percent <= idle_busy_percent and not stalled
    idle_since = _since(state.idle_since_s, state.at_s, idle)
    spare_since = _since(state.spare_since_s, state.at_s, has_spare_cpu(percent) and not stalled)
    if interval_s > LONG_WINDOWS * window_s:
        at_its_end = 100.0 * work_s / (window_s * max(1, cpustat.cpus))
        if idle_since is not None and at_its_end > idle_busy_percent:
            idle_since = now_s
        if spare_since is not None and not has_spare_cpu(at_its_end):
            spare_since = now_s
    is_idle = idle_since is not None and now_s - idle_since >= window_s
    level = IDLE if is_idle else SPARE if percent <= BUSY_PERCENT and not stalled else BUSY
    if state.level == IDLE and level != IDLE and spare_since is not None:
        # The workload has just begun: whether it leaves spare CPU is not known yet.
        spare_since = now_s
    stall_percent = _percent(state.stalls.memory_us, stalls.memory_us, interval_s)
    return Activity(
        now_s, cpustat, stalls, idle_since, spare_since, level, percent, state.work_cpu_s + work_s,
        stall_percent > MEMORY_STALL_PERCENT, stall_percent, _work_since(state, now_s, idle_since),
    )  # fmt: skip


def _work_since(before: Activity, now_s: float, idle_since_s: float | None) -> float | None:
    if idle_since_s is None:
        return before.at_s if before.work_since_s is None else before.work_since_s
    return before.work_since_s if now_s - idle_since_s < PAUSE_S else None


def only_pauses(state: Activity, now_s: float) -> bool:
    """Tell whether this idleness may be a pause of the workload, not its end: it is short beside the work."""
    if state.idle_since_s is None:
        return False
    pause_s = PAUSE_S
    if state.work_since_s is not None:
        pause_s = min(PAUSE_S, (state.idle_since_s - state.work_since_s) / PAUSE_DIVISOR)
    return now_s - state.idle_since_s < pause_s


def is_quiet(state: Activity, cpustat: CpuStat, own_cpu_s: float, ticks_per_s: int) -> bool:
    """Tell whether an idle guest used so little CPU since the last sample that its memory is unchanged.

    Reading or freeing enough memory to be worth a pass takes more CPU time than QUIET_WORK_S.
    """
    if state.level != IDLE or state.cpustat is None:
        return False
    used_s = _used_s(state.cpustat, cpustat, ticks_per_s, user_only=False)
    return used_s is not None and used_s - own_cpu_s <= QUIET_WORK_S


def has_lasting_spare_cpu(state: Activity) -> bool:
    """Tell whether the guest had spare CPU and no stall for long enough that a small step is harmless."""
    if state.at_s is None or state.spare_since_s is None:
        return False
    return state.at_s - state.spare_since_s >= SPARE_WINDOW_S


def has_spare_cpu(busy_percent: float) -> bool:
    """Tell whether a guest with this CPU use has CPU to spare for a step at SCHED_IDLE."""
    return busy_percent < SPARE_BUSY_PERCENT


def why_no_step(activity: Activity) -> str:
    """Return why no step may be taken in a guest that is not idle; "" if one may."""
    if not has_spare_cpu(activity.busy_percent):
        return f"busy at {activity.busy_percent:.0f} %: steps need a tenth of the CPUs to spare"
    if activity.memory_stall_percent >= TARGET_STALL_PERCENT:
        return f"its tasks wait for memory {activity.memory_stall_percent:.1f} % of the time"
    if activity.spare_since_s is None:
        return "its tasks wait for I/O"
    if activity.idle_since_s is not None:
        return "it is about to be idle"
    if not has_lasting_spare_cpu(activity):
        return f"it has had spare CPU for less than {SPARE_WINDOW_S:.0f} s"
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
