"""The adaptive policy: what to do next in this guest. Pure: no clock, no I/O.

A pass is slab -> cold cache -> compact -> deep report. It begins when the guest is idle and there is
something to gain, goes one step at a time, and ends at once when work comes back. Between passes
nothing is done until enough memory has become free, cached or fragmented again.
"""

from __future__ import annotations

from giveback_agent import actions as act
from giveback_agent import gate
from giveback_agent.actions import Action, Capabilities, Observation, Outcome
from giveback_agent.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.settings import Settings
    from giveback_agent.snapshot import Snapshot

MIB = 1 << 20
# Below this a pass costs more than it returns.
LEAST_GAIN_BYTES = 16 * MIB
LEAST_GAIN_PERCENT = 1
RECLAIM_STEP_BYTES = 128 * MIB
SLACK_STEP_DIVISOR = 64
SLACK_PERIOD_S = 10.0
# The kernel reports about 1/16 of each free list every 2 s (mm/page_reporting.c).
DRAIN_S = 34.0
NUDGE_PERIOD_S = 8.0
# Work since the last pass that may have dirtied reported memory without changing the totals.
STALE_WORK_CPU_S = 2.0
COMPACT_WORTH_BYTES = 16 * MIB
COMPACT_BACKOFF_FIRST_S = 60.0
COMPACT_BACKOFF_MAX_S = 3600.0
# A refault rate above this says that the working set was cut.
REFAULT_LIMIT_BYTES = 4 * MIB
FLOOR_RAISE_BYTES = 64 * MIB
FLOOR_DECAY_S = 600.0
MEMORY_TIGHT_PERCENT = 6


class PolicyState(Record):
    """What the policy remembers between decisions; all times are monotonic seconds."""

    todo: tuple[str, ...] = ()
    in_pass: bool = False
    pass_started_s: float = 0.0
    pass_begin: Snapshot | None = None
    reclaim_left_bytes: int = 0
    before_compact_trapped_bytes: int = 0
    hold_until_s: float | None = None
    next_nudge_s: float = 0.0
    pass_ended_s: float | None = None
    after_pass: Snapshot | None = None
    after_pass_work_cpu_s: float = 0.0
    compact_after_s: float = 0.0
    compact_backoff_s: float = COMPACT_BACKOFF_FIRST_S
    floor_bytes: int = 0
    floor_changed_s: float = 0.0
    refaults_seen: int | None = None
    next_slack_step_s: float = 0.0


def decide(
    seen: Observation, state: PolicyState, settings: Settings, can: Capabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    """Return what to do now and the state to come back with. Never more than one step at a time."""
    state = _learn_floor(seen, state, settings)
    if seen.running is not None:
        if _must_stop(seen):
            # The order first of all: lowered, it costs the work something at every page it frees.
            restore = (Action(act.RESTORE, "work came back"),) if seen.lowered else ()
            return (*restore, Action(act.ABANDON, "work came back")), state
        return (), state
    if seen.outcome is not None:
        state = _take_outcome(seen, seen.outcome, state)
    if state.in_pass:
        if _must_stop(seen):
            return _end_pass(seen, state, "work came back")
        return _next_step(seen, state, settings, can)
    if _must_stop(seen):
        return (), state
    if seen.gate.level == gate.IDLE and _worth_a_pass(seen, state, settings, can):
        return _begin_pass(seen, state, settings, can)
    return _slack_step(seen, state, settings, can)


def cache_goal_bytes(snapshot: Snapshot, floor_bytes: int, urgency: int) -> int:
    """How much cache to take: none at urgency 0, the cold part at 1, the warm too at 2 and 3."""
    if urgency <= act.URGENCY_CALM:
        return 0
    above_floor = max(0, snapshot.cache_bytes - floor_bytes)
    if urgency == act.URGENCY_ALONE:
        return min(snapshot.cold_cache_bytes, above_floor)
    if urgency == act.URGENCY_TIGHT:
        return max(min(snapshot.cold_cache_bytes, above_floor), above_floor // 2)
    return above_floor


def floor_bytes(state: PolicyState, settings: Settings, urgency: int) -> int:
    """The cache that stays: the setting's floor, and what refaults have taught unless the host starves."""
    learned = state.floor_bytes if urgency <= act.URGENCY_ALONE else 0
    return max(settings.cache_floor_bytes, learned)


def _must_stop(seen: Observation) -> bool:
    """Work is back, or the guest itself is short of memory: then the agent keeps its hands off."""
    return seen.gate.level == gate.BUSY or is_tight(seen.snapshot)


def is_tight(snapshot: Snapshot) -> bool:
    """The guest is short of memory by its own account."""
    if snapshot.below_low_watermark:
        return True
    memory = snapshot.meminfo
    return memory.mem_available_bytes * 100 < memory.mem_total_bytes * MEMORY_TIGHT_PERCENT


def _least_gain(snapshot: Snapshot) -> int:
    return max(LEAST_GAIN_BYTES, snapshot.meminfo.mem_total_bytes * LEAST_GAIN_PERCENT // 100)


def _worth_a_pass(
    seen: Observation, state: PolicyState, settings: Settings, can: Capabilities
) -> bool:
    now, least = seen.snapshot, _least_gain(seen.snapshot)
    cache = _reclaimable(seen, state, settings, can)
    if cache >= least:
        return True
    if not can.reporting or not settings.page_reporting:
        return False
    trapped = now.trapped_bytes or 0
    last = state.after_pass
    if last is None:
        return trapped >= least
    if now.monotonic_s - last.monotonic_s < SLACK_PERIOD_S:
        return False
    grown = trapped - (last.trapped_bytes or 0)
    worked = seen.gate.work_cpu_s - state.after_pass_work_cpu_s
    # Memory that was reported and then used and freed again is trapped anew: the totals do not show it.
    return grown >= least or (
        trapped >= 2 * least and worked >= STALE_WORK_CPU_S * now.cpustat.cpus
    )


def _reclaimable(
    seen: Observation, state: PolicyState, settings: Settings, can: Capabilities
) -> int:
    if not can.reclaim and not can.drop_caches:
        return 0
    return cache_goal_bytes(seen.snapshot, floor_bytes(state, settings, seen.urgency), seen.urgency)


def _begin_pass(
    seen: Observation, state: PolicyState, settings: Settings, can: Capabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    goal = _reclaimable(seen, state, settings, can)
    todo = [act.SYNC, act.SLAB] if goal and can.drop_caches else []
    if goal and can.reclaim:
        todo.append(act.RECLAIM)
    if can.reporting and settings.page_reporting:
        if can.compaction and settings.idle_threshold != 0:
            todo.append(act.COMPACT)
        if _deep_order(settings, can) is not None:
            todo.append(act.LOWER)
    now = seen.snapshot
    state = replace(
        state, todo=tuple(todo), in_pass=True, pass_started_s=now.monotonic_s, pass_begin=now,
        reclaim_left_bytes=goal, hold_until_s=None,
    )  # fmt: skip
    begun = Action(act.PASS_BEGIN, f"idle at {seen.gate.busy_percent:.0f} % busy")
    more, state = _next_step(seen, state, settings, can)
    return (begun, *more), state


def _deep_order(settings: Settings, can: Capabilities) -> int | None:
    if not can.order_settable or can.order is None or settings.lowest_report_order >= can.order:
        return None
    return settings.lowest_report_order


def _next_step(
    seen: Observation, state: PolicyState, settings: Settings, can: Capabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    now = seen.snapshot
    if state.hold_until_s is not None:
        return _hold(seen, state)
    while state.todo:
        step, rest = state.todo[0], state.todo[1:]
        if step == act.RECLAIM:
            amount = min(RECLAIM_STEP_BYTES, state.reclaim_left_bytes)
            if amount <= 0:
                state = replace(state, todo=rest)
                continue
            state = replace(state, reclaim_left_bytes=state.reclaim_left_bytes - amount)
            return (Action(act.RECLAIM, "cold cache", amount_bytes=amount),), state
        state = replace(state, todo=rest)
        if step == act.COMPACT:
            if (
                now.trapped_bytes or 0
            ) < COMPACT_WORTH_BYTES or now.monotonic_s < state.compact_after_s:
                continue
            state = replace(state, before_compact_trapped_bytes=now.trapped_bytes or 0)
            return (
                Action(act.COMPACT, f"{(now.trapped_bytes or 0) // MIB} MiB are trapped"),
            ), state
        if step == act.LOWER:
            if (now.trapped_bytes or 0) < LEAST_GAIN_BYTES:
                continue
            state = replace(
                state,
                hold_until_s=now.monotonic_s + DRAIN_S,
                next_nudge_s=now.monotonic_s + NUDGE_PERIOD_S,
            )
            lower = Action(act.LOWER, "trapped memory is left", order=_deep_order(settings, can))
            return (lower, Action(act.NUDGE, "start a pass of reporting")), state
        return (Action(step, step),), state
    return _end_pass(seen, state, "done")


def _hold(seen: Observation, state: PolicyState) -> tuple[tuple[Action, ...], PolicyState]:
    now_s = seen.snapshot.monotonic_s
    if state.hold_until_s is not None and now_s >= state.hold_until_s:
        return _end_pass(seen, state, "done")
    if now_s >= state.next_nudge_s:
        state = replace(state, next_nudge_s=now_s + NUDGE_PERIOD_S)
        return (Action(act.NUDGE, "keep reporting going"),), state
    return (), state


def _end_pass(
    seen: Observation, state: PolicyState, why: str
) -> tuple[tuple[Action, ...], PolicyState]:
    restore = (Action(act.RESTORE, why),) if seen.lowered or state.hold_until_s is not None else ()
    state = replace(
        state, todo=(), in_pass=False, hold_until_s=None, reclaim_left_bytes=0,
        pass_ended_s=seen.snapshot.monotonic_s,
        after_pass=seen.snapshot if why == "done" else state.after_pass,
        after_pass_work_cpu_s=seen.gate.work_cpu_s,
        refaults_seen=_refaults(seen.snapshot),
    )  # fmt: skip
    return (*restore, Action(act.PASS_END, why)), state


def _take_outcome(seen: Observation, outcome: Outcome, state: PolicyState) -> PolicyState:
    """Learn from a finished step: compaction that gained nothing is tried again later and later."""
    if outcome.kind != act.COMPACT:
        if outcome.kind == act.RECLAIM and not outcome.ok:
            return replace(state, reclaim_left_bytes=0)
        return state
    gained = state.before_compact_trapped_bytes - (seen.snapshot.trapped_bytes or 0)
    now_s = seen.snapshot.monotonic_s
    if outcome.ok and gained >= max(
        LEAST_GAIN_BYTES // 2, state.before_compact_trapped_bytes // 16
    ):
        return replace(state, compact_backoff_s=COMPACT_BACKOFF_FIRST_S, compact_after_s=now_s)
    backoff = min(COMPACT_BACKOFF_MAX_S, state.compact_backoff_s * 2)
    return replace(
        state, compact_after_s=now_s + state.compact_backoff_s, compact_backoff_s=backoff
    )


def _slack_step(
    seen: Observation, state: PolicyState, settings: Settings, can: Capabilities
) -> tuple[tuple[Action, ...], PolicyState]:
    """A guest that is never idle still gives cold cache back, a little at a time."""
    now = seen.snapshot
    if (
        seen.gate.level != gate.SLACK
        or now.monotonic_s < state.next_slack_step_s
        or not can.reclaim
    ):
        return (), state
    goal = _reclaimable(seen, state, settings, can)
    amount = min(goal, now.meminfo.mem_total_bytes // SLACK_STEP_DIVISOR)
    if amount < LEAST_GAIN_BYTES:
        return (), state
    state = replace(state, next_slack_step_s=now.monotonic_s + SLACK_PERIOD_S)
    return (Action(act.RECLAIM, "slack", amount_bytes=amount),), state


def _refaults(snapshot: Snapshot) -> int | None:
    return None if snapshot.vmstat is None else snapshot.vmstat.workingset_refault_file


def _learn_floor(seen: Observation, state: PolicyState, settings: Settings) -> PolicyState:
    """Refaults say that cache was taken which the work wanted: raise the floor; long quiet lowers it."""
    now, refaults = seen.snapshot, _refaults(seen.snapshot)
    if refaults is None:
        return state
    before = state.refaults_seen
    if before is None or refaults < before:
        return replace(state, refaults_seen=refaults)
    page_bytes = now.buddy.page_size_bytes if now.buddy is not None else 4096
    came_back = (refaults - before) * page_bytes
    if came_back >= REFAULT_LIMIT_BYTES:
        raised = max(state.floor_bytes, settings.cache_floor_bytes) + came_back + FLOOR_RAISE_BYTES
        limit = now.meminfo.mem_total_bytes // 2
        return replace(
            state,
            refaults_seen=refaults,
            floor_bytes=min(raised, limit),
            floor_changed_s=now.monotonic_s,
        )
    if state.floor_bytes and now.monotonic_s - state.floor_changed_s > FLOOR_DECAY_S:
        return replace(
            state, floor_bytes=state.floor_bytes * 3 // 4, floor_changed_s=now.monotonic_s
        )
    return state
