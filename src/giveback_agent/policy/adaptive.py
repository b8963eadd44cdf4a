"""The adaptive policy: what to do next in this guest. Pure: no clock, no I/O.

A pass is cold cache -> slab -> drain -> compact -> deep report. It begins when the guest is idle and there is
something to gain, goes one step at a time, and ends at once when work comes back. Between passes
nothing is done until enough memory has become free, cached or fragmented again.
"""

from __future__ import annotations

from giveback_agent.policy import actions as act
from giveback_agent.policy import cache_floor, compaction, idleness, report_hold, thresholds
from giveback_agent.policy.cache_floor import FloorState
from giveback_agent.policy.compaction import Compacting
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    URGENCY_CALM,
    URGENCY_STARVING,
    URGENCY_TIGHT,
)
from giveback_agent.policy.report_hold import Hold
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.actions import Action, ReleaseStep
    from giveback_agent.policy.observation import (
        GuestObservation,
        KernelCapabilities,
        Snapshot,
        StepOutcome,
    )
    from giveback_agent.settings.table import Settings

MIB = 1 << 20
RECLAIM_STEP_BYTES = 128 * MIB
SLACK_STEP_DIVISOR = 64
# Reclaimable slab above this part of RAM is worth its price.
SLAB_DIVISOR = 16
SLACK_PERIOD_S = 10.0
# After a pass of which nothing is known to be left, look no sooner than this.
REST_S = 10.0
# New cache among the kept (see _among_kept) is taken where it is so many times the kept.
REOPEN_TIMES_KEPT = 3
# There is no older generation to speak of where it has less than this part of that.
CLOSED_DIVISOR = 16
# Cache that was kept may have grown cold all the same: try again this long after a pass.
RETRY_COLD_S = 3600.0
# A pass that was cut short is not begun again at once, or short pauses would cost the work.
CUT_SHORT_REST_S = 20.0
# Work since the last pass that may have used and freed memory without changing the totals.
STALE_WORK_CPU_S = 2.0
# The same in seconds of all CPUs, where it was not a little all the time but ended the calm (`make clean`).
STALE_BURST_CPU_S = 1.0
# The guest is short of memory by its own account.
TIGHT_AVAILABLE_PERCENT = 6


class PolicyState(Record):
    """What the policy remembers between decisions; all times are monotonic seconds.

    `by_hand`: somebody asked for this pass, so that no step is left out for gaining little. `urgency`
    is the one that the pass began for. `hold` is there while the order is lowered.
    """

    todo: tuple[type[ReleaseStep], ...] = ()
    in_pass: bool = False
    urgency: int = URGENCY_ALONE
    goal_bytes: int = 0
    by_hand: bool = False
    hold: Hold | None = None
    rest_until_s: float = 0.0
    after_pass: Snapshot | None = None
    after_pass_work_cpu_s: float = 0.0
    after_pass_urgency: int = URGENCY_ALONE
    compaction: Compacting = Compacting()
    floor: FloorState = FloorState()
    next_slack_step_s: float = 0.0


def decide(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    """Return what to do now and the state to come back with. Never more than one step at a time."""
    if not state.in_pass:
        state = replace(state, floor=_learn(seen, state.floor, settings))
    why_stop = _why_stop(seen)
    if seen.running is not None:
        if why_stop:
            # The order first of all: lowered, it costs the work something at every page it frees.
            restore = (act.RestoreOrder(why_stop),) if seen.lowered else ()
            return (*restore, act.Abandon(why_stop)), state
        return (), state
    if seen.outcome is not None:
        state = _take_outcome(seen, seen.outcome, state)
    if state.in_pass:
        if not why_stop and seen.urgency > max(state.urgency, URGENCY_ALONE):
            # Its steps are those of less need: begin anew, with the warm cache.
            why_stop = "the host needs more"
        if why_stop:
            return _end_pass(seen, state, why_stop)
        return _next_step(seen, state, settings, can)
    if why_stop:
        return (), state
    state = _remember_lists(seen.snapshot, state)
    if _is_calm_enough(seen) and _is_worth_a_pass(seen, state, settings, can):
        return _begin_pass(seen, state, settings, can)
    return _slack_step(seen, state, settings, can)


def _learn(seen: GuestObservation, floor: FloorState, settings: Settings) -> FloorState:
    """A cold step makes refaults of its own, 2 MiB for each list that it teaches: they are not the work's."""
    if seen.running is not None or seen.outcome is not None:
        return cache_floor.settle(floor, seen.snapshot)
    return cache_floor.learn(floor, seen.snapshot, settings.cache_floor_bytes)


def begin_by_hand(
    seen: GuestObservation, settings: Settings, can: KernelCapabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    """Begin a pass that somebody asked for: every step this kernel offers, however little it may gain.

    Go on with `decide` until the state is no longer `in_pass`.
    """
    why_stop = _why_stop(seen)
    if why_stop:
        return (act.EndPass(why_stop),), PolicyState()
    return _begin_pass(seen, PolicyState(by_hand=True), settings, can)


def cache_goal_bytes(snapshot: Snapshot, floor_bytes: int, urgency: int) -> int:
    """Return how much cache to take: none at urgency 0, the cold part at 1, the warm too at 2 and 3."""
    if urgency <= URGENCY_CALM:
        return 0
    above_floor = max(0, snapshot.cache_bytes - floor_bytes)
    cold = min(snapshot.cold_cache_bytes, above_floor)
    if urgency == URGENCY_ALONE:
        return cold
    return max(cold, above_floor // 2) if urgency == URGENCY_TIGHT else above_floor


def floor_bytes(state: PolicyState, settings: Settings, urgency: int) -> int:
    """Return the cache that stays: the setting's floor, and unless the host starves the learned one."""
    learned = state.floor.learned_bytes if urgency <= URGENCY_ALONE else 0
    return max(settings.cache_floor_bytes, learned)


def is_tight(snapshot: Snapshot) -> bool:
    """Tell whether the guest itself is short of memory: then the agent keeps its hands off."""
    memory = snapshot.meminfo
    if snapshot.below_low_watermark:
        return True
    return memory.mem_available_bytes * 100 < memory.mem_total_bytes * TIGHT_AVAILABLE_PERCENT


def _why_stop(seen: GuestObservation) -> str:
    """Return why nothing may be done now, or "" where it may.

    A host that starves would swap the busy guest's memory out: that costs its work more than a pass.
    """
    if seen.gate.level == idleness.BUSY and seen.urgency < URGENCY_STARVING:
        return "work came back"
    short = is_tight(seen.snapshot) or seen.gate.short_of_memory
    return "the guest is short of memory" if short else ""


def _is_calm_enough(seen: GuestObservation) -> bool:
    """Tell whether a whole pass may begin: the more the host needs it, the less calm it takes."""
    if seen.urgency >= URGENCY_STARVING:
        return True
    return seen.gate.level == idleness.IDLE or (
        seen.urgency == URGENCY_TIGHT and seen.gate.level == idleness.SLACK
    )


def _serves_reporting(settings: Settings, can: KernelCapabilities) -> bool:
    return bool(can.reporting) and settings.page_reporting


def _remember_lists(now: Snapshot, state: PolicyState) -> PolicyState:
    """What the last pass left on per-CPU lists is seen by the first look after it only."""
    last = state.after_pass
    if last is None or last.pcp_bytes is not None or now.pcp_bytes is None:
        return state
    return replace(state, after_pass=replace(last, pcp_bytes=now.pcp_bytes))


def _is_worth_a_pass(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> bool:
    now, last, least = (
        seen.snapshot,
        state.after_pass,
        thresholds.least_bytes(seen.snapshot.meminfo),
    )
    if now.monotonic_s < state.rest_until_s and seen.urgency <= state.after_pass_urgency:
        return False
    goal = _goal_after_sync(seen, state, settings, can)
    if last is None or seen.urgency > state.after_pass_urgency:
        stuck = thresholds.stuck_bytes(now, can) if _serves_reporting(settings, can) else 0
        return goal >= least or stuck >= least
    new_cache = now.cache_bytes - last.cache_bytes
    if goal >= least and (new_cache >= least or now.monotonic_s - last.monotonic_s > RETRY_COLD_S):
        return True
    if not _serves_reporting(settings, can):
        return False
    stuck = thresholds.stuck_bytes(now, can)
    grown = thresholds.newly_stuck_bytes(now, last, can)
    worked_s = seen.gate.work_cpu_s - state.after_pass_work_cpu_s
    # Memory that was reported and then used and freed again is trapped anew: totals do not show it.
    burst = (seen.gate.calm_since_s or 0.0) > last.monotonic_s
    stale = worked_s >= (STALE_BURST_CPU_S if burst else STALE_WORK_CPU_S * now.cpustat.cpus)
    return grown >= least or (stale and stuck >= 2 * least)


def _goal(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> int:
    """Return the cache bytes to take with what this kernel offers at this urgency."""
    goal = cache_goal_bytes(seen.snapshot, floor_bytes(state, settings, seen.urgency), seen.urgency)
    if seen.urgency <= URGENCY_ALONE:
        # Cold and warm must be told apart, or else the cache stays.
        if can.cold_method == "none" or seen.urgency <= URGENCY_CALM:
            return 0
        above_floor = seen.snapshot.cache_bytes - floor_bytes(state, settings, seen.urgency)
        return max(goal, min(_among_kept(seen.snapshot, state, can), above_floor))
    if can.reclaim or can.cold_method != "none":
        return goal
    return goal if _may_drop(seen, can) else 0


def _goal_after_sync(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> int:
    """Return the goal as it will be once what is dirty now is written, which a pass begins with.

    Work often ends with its last files dirty. The kernel writes them half a minute later, when a quiet
    guest is looked at but once a minute.
    """
    now = seen.snapshot
    clean = replace(now.meminfo, dirty_bytes=0, writeback_bytes=0)
    cold_bytes = max(now.cold_cache_bytes, clean.inactive_file_bytes)
    written = replace(now, meminfo=clean, cold_cache_bytes=cold_bytes)
    return _goal(replace(seen, snapshot=written), state, settings, can)


def _may_drop(seen: GuestObservation, can: KernelCapabilities) -> bool:
    """All cache or none, and no floor: only where the host starves."""
    return can.drop_caches and seen.urgency >= URGENCY_STARVING


def _among_kept(now: Snapshot, state: PolicyState, can: KernelCapabilities) -> int:
    """Return the new cache that the kernel counts as active since the last pass; 0 where it is little.

    On the multi-gen LRU cache goes to the generation before the last one where none is older: among
    what the last pass has kept. That is given up with it where it is a small part of both.
    """
    last = state.after_pass
    if last is None or can.cold_method != "generations":
        return 0
    kept = last.meminfo.active_file_bytes
    new = now.meminfo.active_file_bytes - kept - now.meminfo.dirty_bytes
    is_closed = now.meminfo.inactive_file_bytes * CLOSED_DIVISOR < new
    worth_it = new >= max(thresholds.much_bytes(now.meminfo), REOPEN_TIMES_KEPT * kept)
    return new if is_closed and worth_it else 0


def _begin_pass(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    goal = _goal(seen, state, settings, can)
    wanted = _goal_after_sync(seen, state, settings, can)
    todo = _cache_steps(seen, can, state.by_hand) if wanted else []
    if _serves_reporting(settings, can):
        if can.drain:
            todo.append(act.DrainLists)
        if can.compaction and settings.idle_threshold != 0:
            todo.append(act.Compact)
        todo.append(
            act.LowerOrder if _deep_order(settings, can) is not None else act.TriggerReporting
        )
    state = replace(
        state, todo=tuple(todo), in_pass=True, urgency=seen.urgency, goal_bytes=goal, hold=None
    )
    why = "by hand" if state.by_hand else f"idle at {seen.gate.busy_percent:.0f} % busy"
    begun = act.BeginPass(why)
    more, state = _next_step(seen, state, settings, can)
    return (begun, *more), state


def _cache_steps(
    seen: GuestObservation, can: KernelCapabilities, by_hand: bool
) -> list[type[ReleaseStep]]:
    """Dirty pages cannot be taken, so sync first; cached pages pin their inodes, so slab last.

    Slab has no gentle request: dropped dentries and inodes cost the next read a third more CPU
    (docs/cold-cache.md), so only where there is much of it, or the host needs it, or somebody asked.
    """
    steps: list[type[ReleaseStep]] = [act.Sync]
    if can.cold_method != "none":
        steps.append(act.ReclaimCold)
    pressed = seen.urgency > URGENCY_ALONE
    if pressed and can.reclaim:
        steps.append(act.Reclaim)
    elif _may_drop(seen, can):
        steps.append(act.DropCaches)
    memory = seen.snapshot.meminfo
    much = memory.s_reclaimable_bytes * SLAB_DIVISOR > memory.mem_total_bytes
    if can.drop_caches and (pressed or much or by_hand):
        steps.append(act.ReclaimSlab)
    return steps


def _deep_order(settings: Settings, can: KernelCapabilities) -> int | None:
    if not can.order_settable or can.order is None or settings.lowest_report_order >= can.order:
        return None
    return settings.lowest_report_order


def _next_step(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    if state.hold is not None:
        return _hold(seen, state.hold, state)
    while state.todo:
        step = state.todo[0]
        state = replace(state, todo=state.todo[1:])
        action = _prepare(step, seen, state, settings, can)
        if action is None:
            continue
        if isinstance(action, act.Compact):
            trapped = seen.snapshot.trapped_bytes or 0
            # What compaction moves away it frees to the lists, too.
            todo = (act.DrainLists, *state.todo) if can.drain else state.todo
            begun = replace(state.compaction, before_bytes=trapped)
            state = replace(state, compaction=begun, todo=todo)
        if isinstance(action, act.Reclaim):
            state = _after_reclaim_step(state, action.amount_bytes)
        if isinstance(action, act.LowerOrder):
            hold = Hold.begin(seen.snapshot.monotonic_s, seen.reports, _used_bytes(seen.snapshot))
            state = replace(state, hold=hold)
            return (action, act.TriggerReporting()), state
        return (action,), state
    return _end_pass(seen, state, "done")


def _after_reclaim_step(state: PolicyState, taken_bytes: int) -> PolicyState:
    """Plain reclaim goes in bounded steps, so that returning work waits for one of them at most."""
    left = state.goal_bytes - taken_bytes
    todo = (act.Reclaim, *state.todo) if left > 0 else state.todo
    return replace(state, goal_bytes=max(0, left), todo=todo)


def _prepare(
    step: type[ReleaseStep],
    seen: GuestObservation,
    state: PolicyState,
    settings: Settings,
    can: KernelCapabilities,
) -> ReleaseStep | None:
    """Return the step with its amounts, or None where it is not worth it now."""
    now = seen.snapshot
    trapped = now.trapped_bytes or 0
    if step is act.ReclaimCold:
        untrained = seen.urgency > URGENCY_ALONE
        why = (
            "cold cache, the warm too where they cannot be told apart"
            if untrained
            else "cold cache"
        )
        # What was dirty when the pass began is clean by now.
        amount = max(state.goal_bytes, _goal(seen, state, settings, can))
        how = act.UNTRAINED if untrained else act.TRAINED
        if not untrained and _among_kept(now, state, can):
            why, how = "new cache among the kept", act.REOPEN
        return act.ReclaimCold(why, amount, how)
    if step in (act.Reclaim, act.DropCaches) and seen.urgency <= URGENCY_ALONE:
        # The need is over since the pass began: the warm cache stays.
        return None
    if step is act.Reclaim:
        # What the cold step has taken already counts.
        goal = min(state.goal_bytes, _goal(seen, state, settings, can))
        amount = min(RECLAIM_STEP_BYTES, goal)
        need = act.Reclaim("the host needs it", amount, _may_drop(seen, can))
        return need if amount > 0 else None
    if step is act.DropCaches:
        return act.DropCaches("the host needs it")
    if step is act.Compact:
        # Single pages can be reported as they are: only much is worth it.
        single = _deep_order(settings, can) == 0
        much_bytes = thresholds.much_bytes(now.meminfo) if single else None
        if not state.by_hand and not compaction.is_worth_it(now, state.compaction, much_bytes):
            return None
        nodes = compaction.worthy_nodes(now, state.compaction)
        return act.Compact(f"{trapped // MIB} MiB are trapped", nodes)
    if step is act.LowerOrder:
        if trapped < report_hold.LEAST_TRAPPED_BYTES and not state.by_hand:
            return None
        return act.LowerOrder("trapped memory is left", _deep_order(settings, can) or 0)
    return step()


def _hold(
    seen: GuestObservation, hold: Hold, state: PolicyState
) -> tuple[tuple[Action, ...], PolicyState]:
    """Wait while the kernel reports, if the order could be lowered at all.

    To work that is back a lowered order costs something at every page that it frees, however little
    CPU it uses: nobody but a host in need, or who asked for this pass, may let it go on.
    """
    now, pressed = seen.snapshot, state.by_hand or seen.urgency > URGENCY_ALONE
    calm = pressed or seen.gate.level == idleness.IDLE or seen.gate.calm_since_s is not None
    judged_s = seen.gate.at_s or 0.0
    used_bytes = _used_bytes(now)
    if not pressed and hold.sees_work(
        calm, judged_s, used_bytes, thresholds.much_bytes(now.meminfo)
    ):
        return _end_pass(seen, state, "work came back")
    still = hold.look(now.monotonic_s, seen.reports) if seen.lowered else None
    if still is None:
        return _end_pass(seen, state, "done")
    return (), replace(state, hold=still.noted(calm, judged_s, used_bytes))


def _used_bytes(now: Snapshot) -> int:
    memory = now.meminfo
    return memory.anon_pages_bytes + memory.shmem_bytes + memory.file_bytes


def _end_pass(
    seen: GuestObservation, state: PolicyState, why: str
) -> tuple[tuple[Action, ...], PolicyState]:
    restore: tuple[Action, ...] = ()
    if seen.lowered or state.hold is not None:
        restore = (act.RestoreOrder(why),)
    now, whole = seen.snapshot, why == "done"
    after_pass, compaction = state.after_pass, state.compaction
    if whole:
        after_pass = now
        compaction = replace(compaction, known=now if seen.lowered else None)
    elif state.hold is not None:
        # Nothing but reporting was left to do, and how much of it was done is not known.
        before = None if after_pass is None else after_pass.trapped_bytes
        after_pass = replace(now, trapped_bytes=min(now.trapped_bytes or 0, before or 0))
    state = replace(
        state,
        todo=(),
        in_pass=False,
        hold=None,
        goal_bytes=0,
        compaction=compaction,
        # Who was only waiting for the kernel's reports has wasted nothing.
        rest_until_s=now.monotonic_s
        + (REST_S if whole or state.hold is not None else CUT_SHORT_REST_S),
        after_pass=after_pass,
        after_pass_work_cpu_s=seen.gate.work_cpu_s if whole else state.after_pass_work_cpu_s,
        after_pass_urgency=(
            state.urgency if whole else min(state.urgency, state.after_pass_urgency)
        ),
        floor=cache_floor.settle(state.floor, now),
    )
    return (*restore, act.EndPass(why)), state


def _take_outcome(seen: GuestObservation, outcome: StepOutcome, state: PolicyState) -> PolicyState:
    """Learn from a finished step."""
    if outcome.kind == act.Reclaim.kind and not outcome.ok:
        return replace(state, goal_bytes=0)
    if outcome.kind != act.Compact.kind:
        return state
    return replace(state, compaction=compaction.learned(state.compaction, outcome, seen.snapshot))


def _slack_step(
    seen: GuestObservation, state: PolicyState, settings: Settings, can: KernelCapabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    """A guest that is never idle still gives cold cache back, a little at a time."""
    now = seen.snapshot
    wanted = seen.gate.level == idleness.SLACK and idleness.has_slack(seen.gate)
    if not wanted or now.monotonic_s < state.next_slack_step_s or can.cold_method == "none":
        return (), state
    among_kept = _among_kept(now, state, can)
    if _is_dirty(now, among_kept):
        return (), state
    amount = min(
        _goal(seen, state, settings, can), now.meminfo.mem_total_bytes // SLACK_STEP_DIVISOR
    )
    if amount < thresholds.LEAST_STEP_BYTES:
        return (), state
    state = replace(state, next_slack_step_s=now.monotonic_s + SLACK_PERIOD_S)
    how = act.REOPEN if among_kept else act.TRAINED
    return (act.ReclaimCold("slack", amount, how),), state


def _is_dirty(now: Snapshot, among_kept_bytes: int) -> bool:
    """Whether much of what could be taken must be written first, which only a pass begins with."""
    memory = now.meminfo
    there = max(memory.inactive_file_bytes, among_kept_bytes)
    return thresholds.is_largely_dirty(memory, there)
