"""Small steps in a guest that is never idle, one at a time, paced by the cost of the last. Pure.

`take` is called if no pass is under way and no step runs. It reads from top to bottom:

    allowed?    spare CPU for 10 s, no stall for memory or I/O, and the guest is not about to be idle
    aftermath   refaults and stalls since the last step ended: if there are many, wait longer
    due?        the first step whose pause is over and that could return memory:
                  cold cache          a part of RAM; the nearer stalls are to the target, the less (senpai)
                  a short deep report the order is lowered for one cycle of the kernel, at most 2.5 s
                  compaction          only if the order is fixed, and only while it is worth its cost

The cost of a step decides about the next of its kind. It is measured in seconds per byte freed: its CPU time,
the time in which all tasks stalled, and the allocations that had to wait. A costly step, or one that freed
little, doubles the pause. A cheap one halves it and makes the next step larger.
"""

from __future__ import annotations

from giveback_agent.policy import cache_goal, compaction, thresholds
from giveback_agent.policy.actions import (
    REOPEN,
    TRAINED,
    Compact,
    LowerOrder,
    ReclaimCold,
    RestoreOrder,
    TriggerReporting,
)
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.observation import NO_METHOD
from giveback_kernel import buddyinfo
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.actions import Action
    from giveback_agent.policy.activity.idleness import Activity
    from giveback_agent.policy.compaction import Compacting
    from giveback_agent.policy.observation import GuestObservation, Snapshot, StepOutcome, Tick

    Steps = tuple[tuple[Action, ...], "BusySteps"]

MIB = 1 << 20
# Between two steps of any kind, so that the cost of one is known before the next.
GAP_S = 3.0
PAUSE_LEAST_S = 5.0
PAUSE_FIRST_S = 10.0
PAUSE_MOST_S = 240.0
# A step of cold cache takes 1/64 of RAM at first, and never more than 1/16.
FIRST_DIVISOR = 64
MOST_DIVISOR = 16
# The steps together cost at most this part of all CPUs, however slow these are.
MOST_COST_PERCENT = 2.0
# A step that freed less than this was not worth its cost.
LITTLE_BYTES = 4 * MIB
# Bytes freed per second of cost: below the first a step was costly, above the second it was cheap.
COSTLY_BYTES_PER_S = 8 * MIB
CHEAP_BYTES_PER_S = 32 * MIB
# If more of what was taken is read again, in percent, it is regret.
REGRET_PERCENT = 2
# About how long an allocation waited that had to reclaim memory itself (allocstall).
ALLOCSTALL_S = 0.002
# About the CPU time of the kernel's worker for a report of 32 blocks (docs/deep-report.md: 0.28 s for 651).
REPORT_CPU_S = 0.0005
# The kernel starts 2 s after the trigger, and one cycle takes almost no time.
MOST_LOWERED_S = 2.5
# The workload allocates and frees smaller blocks all the time: reported, they would be needed again at once.
LEAST_REPORT_ORDER = 3
# The first short report is for large blocks only: this many orders below the report order.
FIRST_ORDERS = 4
REPORT_BLOCKS = 32
CYCLE_PART = 16
# Compaction moves the workload's pages, so it waits while more of the CPUs than this is busy.
COMPACT_BUSY_PERCENT = 50.0
NOTHING = "nothing to return"


class Rhythm(Record):
    """The schedule of one kind of step: the next may begin at `next_s`, `pause_s` after the last.

    `size`: bytes of cold cache, or the order of a short report; 0 before the first step. `why` is the
    reason for a longer pause, for people.
    """

    next_s: float = 0.0
    pause_s: float = PAUSE_FIRST_S
    size: int = 0
    why: str = ""


class Counts(Record):
    """Counters at one moment, for the cost of a step; None if the kernel does not count.

    `refaults` and `stolen` are in pages: workingset_refault_file and pgsteal_file of /proc/vmstat.
    """

    at_s: float
    full_stall_us: int | None = None
    some_stall_us: int | None = None
    allocstalls: int = 0
    refaults: int | None = None
    stolen: int | None = None
    cache_bytes: int = 0
    trapped_bytes: int = 0
    own_cpu_s: float = 0.0


class Begun(Record):
    """A step under way: its kind, the counters before it, the bytes that it may free.

    For a short report also: the kernel's count of `reports` before it and those expected, its `order`, the
    `lowest` that is allowed, and whether a reporting cycle was `triggered`.
    """

    kind: str
    before: Counts
    expected_bytes: int = 0
    reports: int | None = None
    expected_reports: int = 0
    order: int = 0
    lowest: int = 0
    triggered: bool = True


class Ended(Record):
    """A finished step: whether it reclaimed cold cache, the counters at its end, the bytes it freed."""

    is_cold: bool
    after: Counts
    freed_bytes: int


class BusySteps(Record):
    """The state between small steps.

    `begun` is the step under way. `last` has the last step for cache and the last for trapped memory,
    whose costs may still show. `coming` describes the next step. `left_bytes` were trapped when a short
    report found little. `needs_trigger`: the workload's own frees do not make the kernel report.
    `ended_s`: when the last step ended. `steps` and `freed_bytes` are totals.
    """

    cold: Rhythm = Rhythm()
    report: Rhythm = Rhythm()
    begun: Begun | None = None
    last: tuple[Ended, ...] = ()
    left_bytes: int | None = None
    needs_trigger: bool = False
    coming: str = ""
    ended_s: float | None = None
    steps: int = 0
    freed_bytes: int = 0

    @property
    def lowers(self) -> bool:
        """Whether the report order is lowered for a short report."""
        return self.begun is not None and self.begun.kind == LowerOrder.kind

    @property
    def why(self) -> str:
        """Why the pause before the next step is longer than usual; "" if it is not."""
        return (self.cold if self.cold.next_s <= self.report.next_s else self.report).why

    @property
    def next_s(self) -> float:
        """The earliest time of the next step, monotonic seconds."""
        return min(self.cold.next_s, self.report.next_s)


def may_wait(state: BusySteps, activity: Activity, now_s: float, reports: int | None) -> bool:
    """Tell whether a short report may go on: for one cycle at most, and only with spare CPU."""
    begun = state.begun
    if begun is None or now_s - begun.before.at_s >= MOST_LOWERED_S:
        return False
    if not idleness.has_spare_cpu(activity.busy_percent) or activity.short_of_memory:
        return False
    return reports is None or reports == begun.reports


def take(tick: Tick, state: BusySteps, compacting: Compacting) -> Steps:
    """Return the step to take now in a guest that is not idle, if any, and the new state."""
    now_s, state = tick.now.monotonic_s, stopped(state)
    if idleness.why_no_step(tick.seen.activity):
        return (), state
    state = _renewed(tick, _aftermath(tick, state))
    cold, order = _cold_bytes(tick, state.cold), _report_order(tick, state)
    if cold and state.cold.next_s <= now_s:
        return _begin_cold(tick, state, cold)
    if order is not None and state.report.next_s <= now_s:
        return _begin_report(tick, state, order)
    if _may_compact(tick, compacting) and state.report.next_s <= now_s:
        nodes = compaction.worthy_nodes(tick.now, compacting)
        begun = Begun(Compact.kind, _counts(tick.seen))
        state = replace(state, begun=begun, coming="compaction")
        return (Compact("in a busy guest", nodes),), state
    return (), _put_off(tick, state, cold, order)


def go_on(tick: Tick, state: BusySteps) -> Steps:
    """Continue a short report, or end it. The order is restored whatever its outcome."""
    seen, begun = tick.seen, state.begun
    if begun is None or not state.lowers:
        return (), state
    if seen.lowered and may_wait(state, seen.activity, tick.now.monotonic_s, seen.reports):
        return (), state
    part = 1.0
    if not seen.lowered:
        part = 0.0
    elif seen.reports is not None and begun.reports is not None:
        part = (seen.reports - begun.reports) / max(1, begun.expected_reports)
    part = min(1.0, max(0.0, part))
    restore = (RestoreOrder("a short deep report is done"),)
    if seen.lowered and not part and not begun.triggered:
        now_s = tick.now.monotonic_s
        report = replace(state.report, next_s=now_s + state.report.pause_s)
        return restore, replace(state, begun=None, needs_trigger=True, report=report)
    freed, reported = int(begun.expected_bytes * part), int(begun.expected_reports * part)
    return restore, _ended(seen, state, begun, freed, reported * REPORT_CPU_S)


def after_step(seen: GuestObservation, state: BusySteps, outcome: StepOutcome) -> BusySteps:
    """Return the state after a step in a worker has ended. Its cost decides about the next step."""
    begun = state.begun
    if begun is None or begun.kind != outcome.kind:
        return state
    counts = _counts(seen)
    if outcome.kind == Compact.kind:
        freed = begun.before.trapped_bytes - counts.trapped_bytes
    elif counts.stolen is not None and begun.before.stolen is not None:
        freed = (counts.stolen - begun.before.stolen) * cache_goal.page_bytes(seen.snapshot)
    else:
        freed = begun.before.cache_bytes - counts.cache_bytes
    return _ended(seen, state, begun, max(0, freed), 0.0)


def stopped(state: BusySteps) -> BusySteps:
    """Return the state without a step under way: the outcome of a dropped step never comes."""
    return replace(state, begun=None) if state.begun is not None else state


def judged(rhythm: Rhythm, now_s: float, freed_bytes: int, cost_s: float, is_cold: bool) -> Rhythm:
    """Return the rhythm after a step that freed `freed_bytes` at a cost of `cost_s` seconds."""
    if freed_bytes < LITTLE_BYTES:
        return _slower(rhythm, now_s, f"the last step freed only {freed_bytes // MIB} MiB")
    if cost_s * COSTLY_BYTES_PER_S > freed_bytes:
        words = f"the last step cost {cost_s:.2f} s for {freed_bytes // MIB} MiB"
        return _smaller(_slower(rhythm, now_s, words), is_cold)
    if cost_s * CHEAP_BYTES_PER_S < freed_bytes:
        pause_s = max(PAUSE_LEAST_S, rhythm.pause_s / 2)
        size = rhythm.size * 2 if is_cold else max(1, rhythm.size - 1)
        rhythm = replace(rhythm, pause_s=pause_s, size=size)
    return replace(rhythm, next_s=now_s + rhythm.pause_s, why="")


def cold_step_bytes(ram_bytes: int, size_bytes: int, stall_percent: float) -> int:
    """Return how many bytes of cold cache a step may take; more stalls for memory make it fewer."""
    size = size_bytes or ram_bytes // FIRST_DIVISOR
    size = min(max(size, thresholds.LEAST_STEP_BYTES), ram_bytes // MOST_DIVISOR)
    return int(size * max(0.0, 1.0 - stall_percent / idleness.TARGET_STALL_PERCENT))


def reported_by_a_cycle(now: Snapshot, order: int, own_order: int) -> tuple[int, int]:
    """Return the bytes and the number of reports of one reporting cycle with the order lowered to `order`.

    A cycle takes 1/16 of each free list, in reports of 32 blocks, and at least one report of each list
    that is not empty. Source: mm/page_reporting.c.
    """
    if now.buddy is None:
        return 0, 0
    held, total, reports = buddyinfo.by_order(now.buddy), 0, 0
    for at in range(order, min(own_order, len(held))):
        block_bytes = now.buddy.page_size_bytes << at
        blocks = held[at] // block_bytes
        made = -(-blocks // (REPORT_BLOCKS * CYCLE_PART))
        reports += made
        total += min(blocks, made * REPORT_BLOCKS) * block_bytes
    return total, reports


def _aftermath(tick: Tick, state: BusySteps) -> BusySteps:
    """Slow down after a step whose cost showed only after its end.

    A step is watched until the next of its kind, and its later cost is charged once.
    """
    now, page_bytes = _counts(tick.seen), cache_goal.page_bytes(tick.now)
    for ended in state.last:
        words = _regretted(ended, now, page_bytes)
        if words:
            state = replace(state, last=tuple([one for one in state.last if one is not ended]))
            rhythm = state.cold if ended.is_cold else state.report
            # Twice: at its end the step seemed cheap, and the next was made larger and sooner for it.
            for _ in range(2):
                rhythm = _slower(rhythm, ended.after.at_s, words)
                rhythm = _smaller(rhythm, ended.is_cold)
            state = _with_rhythm(state, rhythm, ended.is_cold)
    return state


def _regretted(ended: Ended, now: Counts, page_bytes: int) -> str:
    """Describe what a step has cost since it ended: refaults, or stalls for memory; "" if nothing."""
    past_s = now.at_s - ended.after.at_s
    if past_s < GAP_S:
        return ""
    read_again = _rise(ended.after.refaults, now.refaults) * page_bytes
    if ended.is_cold and read_again > max(MIB, ended.freed_bytes * REGRET_PERCENT // 100):
        return f"{read_again // MIB} of {ended.freed_bytes // MIB} MiB reclaimed were read again"
    stall_s = _rise(ended.after.some_stall_us, now.some_stall_us) / 1e6
    if stall_s > past_s * idleness.TARGET_STALL_PERCENT / 100:
        return f"tasks stalled for memory for {stall_s:.2f} s after the last step"
    return ""


def _with_rhythm(state: BusySteps, rhythm: Rhythm, is_cold: bool) -> BusySteps:
    return replace(state, cold=rhythm) if is_cold else replace(state, report=rhythm)


def _renewed(tick: Tick, state: BusySteps) -> BusySteps:
    """End the long pause of short reports if much memory was trapped since one found little."""
    trapped, left = tick.now.trapped_bytes or 0, state.left_bytes
    if left is None or trapped - left < thresholds.least_bytes(tick.now.meminfo):
        return state
    report = replace(state.report, next_s=tick.now.monotonic_s, pause_s=PAUSE_FIRST_S, why="")
    return replace(state, report=report, left_bytes=None)


def _cold_bytes(tick: Tick, rhythm: Rhythm) -> int:
    """Return the bytes of the next step of cold cache; 0 if none is worth it now."""
    memory = tick.now.meminfo
    if tick.can.cold_method == NO_METHOD:
        return 0
    # Dirty cache is left to a pass, which begins with a sync.
    there = max(memory.inactive_file_bytes, cache_goal.among_kept_bytes(tick))
    if thresholds.is_largely_dirty(memory, there):
        return 0
    most = cold_step_bytes(
        memory.mem_total_bytes, rhythm.size, tick.seen.activity.memory_stall_percent
    )
    amount = min(cache_goal.goal_bytes(tick), most)
    # A smaller step, also one made small by stalls, is not worth the cost of training the LRU.
    return amount if amount >= thresholds.LEAST_STEP_BYTES // 2 else 0


def _report_order(tick: Tick, state: BusySteps) -> int | None:
    """Return the order of the next short report; None if none is worth it, or the order is fixed."""
    deep, own, trapped = tick.deep_order, tick.can.order, tick.now.trapped_bytes or 0
    if not tick.reports or deep is None or own is None:
        return None
    if trapped < thresholds.least_bytes(tick.now.meminfo):
        return None
    order = state.report.size if state.report.size else own - FIRST_ORDERS
    return max(_lowest_order(tick), min(order, own - 1))


def _lowest_order(tick: Tick) -> int:
    """Return the lowest order that a short report may use."""
    return max(tick.deep_order or 0, min(LEAST_REPORT_ORDER, (tick.can.order or 0) - 1))


def _may_compact(tick: Tick, compacting: Compacting) -> bool:
    """Tell whether compaction is worth it: only it returns trapped memory here, and CPU is to spare."""
    wanted = tick.reports and tick.deep_order is None and tick.can.compaction
    spare = tick.seen.activity.busy_percent <= COMPACT_BUSY_PERCENT
    if not wanted or not spare or tick.settings.idle_threshold == 0:
        return False
    return compaction.is_worth_it(tick.now, compacting, None)


def _begin_cold(tick: Tick, state: BusySteps, amount: int) -> Steps:
    how = REOPEN if cache_goal.among_kept_bytes(tick) else TRAINED
    rhythm = replace(state.cold, size=amount)
    begun = Begun(ReclaimCold.kind, _counts(tick.seen), amount)
    state = replace(state, begun=begun, cold=rhythm, coming=f"{amount // MIB} MiB of cold cache")
    return (ReclaimCold("in a busy guest", amount, how, with_ended=False),), state


def _begin_report(tick: Tick, state: BusySteps, order: int) -> Steps:
    bytes_, reports = reported_by_a_cycle(tick.now, order, tick.can.order or 0)
    # The workload's own frees also start a reporting cycle, and need no process for it.
    triggers = state.needs_trigger or tick.seen.reports is None
    begun = Begun(
        LowerOrder.kind,
        _counts(tick.seen),
        bytes_,
        tick.seen.reports,
        reports,
        order,
        _lowest_order(tick),
        triggers,
    )
    report = replace(state.report, size=order)
    state = replace(state, begun=begun, report=report, coming=_report_words(order))
    lower = LowerOrder("in a busy guest", order)
    return ((lower, TriggerReporting()) if triggers else (lower,)), state


def _ended(
    seen: GuestObservation, state: BusySteps, begun: Begun, freed: int, kernel_cpu_s: float
) -> BusySteps:
    """Account a finished step. `kernel_cpu_s`: CPU seconds of the kernel's workers for it."""
    now, is_cold = _counts(seen), begun.kind == ReclaimCold.kind
    before = begun.before
    cost_s = kernel_cpu_s + max(0.0, now.own_cpu_s - before.own_cpu_s)
    cost_s += _rise(before.full_stall_us, now.full_stall_us) / 1e6
    cost_s += max(0, now.allocstalls - before.allocstalls) * ALLOCSTALL_S
    rhythm = state.cold if is_cold else state.report
    if begun.kind == LowerOrder.kind and freed < LITTLE_BYTES and begun.order > begun.lowest:
        # Blocks of this order are reported already: the remaining memory is in smaller ones.
        rhythm = replace(rhythm, size=begun.order - 1, next_s=now.at_s + rhythm.pause_s, why="")
    else:
        rhythm = judged(rhythm, now.at_s, freed, cost_s, is_cold)
        little = not is_cold and freed < LITTLE_BYTES
        state = replace(state, left_bytes=now.trapped_bytes if little else state.left_bytes)
    others = tuple([one for one in state.last if one.is_cold != is_cold])
    state = replace(
        state,
        begun=None,
        last=(*others, Ended(is_cold, now, freed)),
        ended_s=now.at_s,
        steps=state.steps + 1,
        freed_bytes=state.freed_bytes + freed,
    )
    rest_s = cost_s * 100 / (MOST_COST_PERCENT * max(1, seen.snapshot.cpustat.cpus))
    gap_s = now.at_s + min(PAUSE_MOST_S, max(GAP_S, rest_s))
    cold, report = (rhythm, state.report) if is_cold else (state.cold, rhythm)
    return replace(state, cold=_not_before(cold, gap_s), report=_not_before(report, gap_s))


def _put_off(tick: Tick, state: BusySteps, cold: int, order: int | None) -> BusySteps:
    """Return the state if nothing is due: delay steps that could return nothing, name the next one."""
    now_s = tick.now.monotonic_s
    names = []
    if cold:
        names.append((state.cold.next_s, f"{cold // MIB} MiB of cold cache"))
    else:
        state = replace(state, cold=_not_before(state.cold, now_s + PAUSE_FIRST_S))
    if order is not None:
        names.append((state.report.next_s, _report_words(order)))
    else:
        state = replace(state, report=_not_before(state.report, now_s + PAUSE_FIRST_S))
    return replace(state, coming=min(names)[1] if names else NOTHING)


def _report_words(order: int) -> str:
    return f"a short report of free blocks of order {order} and above"


def _not_before(rhythm: Rhythm, at_s: float) -> Rhythm:
    return replace(rhythm, next_s=max(rhythm.next_s, at_s))


def _slower(rhythm: Rhythm, since_s: float, why: str) -> Rhythm:
    pause_s = min(PAUSE_MOST_S, rhythm.pause_s * 2)
    return replace(rhythm, pause_s=pause_s, next_s=max(rhythm.next_s, since_s + pause_s), why=why)


def _smaller(rhythm: Rhythm, is_cold: bool) -> Rhythm:
    return replace(rhythm, size=rhythm.size // 2 if is_cold else rhythm.size + 1)


def _counts(seen: GuestObservation) -> Counts:
    now, vm = seen.snapshot, seen.snapshot.vmstat
    return Counts(
        now.monotonic_s,
        seen.stalls.memory_full_us,
        seen.stalls.memory_us,
        0 if vm is None else vm.allocstall or 0,
        None if vm is None else vm.workingset_refault_file,
        None if vm is None else vm.pgsteal_file,
        now.cache_bytes,
        now.trapped_bytes or 0,
        seen.own_cpu_s,
    )


def _rise(before: int | None, after: int | None) -> int:
    """Return the increase of a counter; 0 if it ran backwards or does not exist."""
    return 0 if before is None or after is None else max(0, after - before)
