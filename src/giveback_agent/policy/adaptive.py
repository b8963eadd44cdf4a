"""The adaptive policy: the next action in this guest. Pure: no clock, no I/O.

`decide` is called once per tick. It reads from top to bottom:

    learn        refaults between passes raise the cache floor; long quiet lowers it
    stop?        the workload came back, or the guest itself is short of memory
    running?     a worker runs: wait for it, or abandon it
    outcome      learn from the step that has ended
    in a pass?   end it, hold the lowered order, or take the next step
    begin?       idle, and a pass is worth its cost: plan it and take its first step
    cold anon    swap out memory that programs do not touch, if the settings allow it
    busy step    never idle, but with spare CPU: one small step, paced by its cost (busy_steps.py)

Its states and transitions:

                    idle enough, and worth its cost / plan
    BETWEEN PASSES ----------------------------------------> STEPPING --+
      ^  ^   | ^                                             |  |   ^   | a step is worth it:
      |  |   | | busy step                                   |  |   +---+ queue it
      |  |   +-+                                             |  |
      |  |          no step is left: done                    |  | the last step:
      |  +---------------------------------------------------+  | lower the order, trigger reporting
      |             or stopped / restore, rest                  v
      +------------------------------------------------------ HOLDING
                    the kernel fell silent: done
                    or stopped / restore, rest

STEPPING and HOLDING are one `Pass` (release_pass.py), without and with a `hold`. A pass is stopped if the
workload comes back, the guest is short of memory, or the host's urgency rises above that of the pass.
While a worker runs, the only possible change is that it is abandoned. See also docs/policy.md.
"""

from __future__ import annotations

from giveback_agent.policy import cache_goal, compaction, release_pass, thresholds
from giveback_agent.policy.actions import (
    Abandon,
    BeginPass,
    Compact,
    DropCaches,
    EndPass,
    LowerOrder,
    Reclaim,
    ReclaimCold,
    ReclaimEnded,
    ReleaseStep,
    RestoreOrder,
    TriggerReporting,
)
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.cache_goal import EndedRegret, FloorState, JudgedCache
from giveback_agent.policy.compaction import Compacting
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    URGENCY_STARVING,
    URGENCY_TIGHT,
    Tick,
)
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.actions import Action
    from giveback_agent.policy.activity.idleness import Activity
    from giveback_agent.policy.busy_steps import BusySteps
    from giveback_agent.policy.cold_anon import ColdAnonState
    from giveback_agent.policy.observation import (
        GuestObservation,
        KernelCapabilities,
        Snapshot,
        StepOutcome,
    )
    from giveback_agent.policy.release_pass import Pass
    from giveback_agent.settings.table import AgentSettings

    Decision = tuple[tuple[Action, ...], "PolicyState"]

# For AT_WORK_S after a small step, a short idleness may be a pause of the workload (idleness.only_pauses).
AT_WORK_S = 60.0
# Between two steps for ended cgroups outside of a pass.
ENDED_PERIOD_S = 10.0
# After a complete pass, the next begins no sooner than this.
REST_S = 10.0
# After a stopped pass. Without this rest, every short pause of the workload would start a pass and slow it.
CUT_SHORT_REST_S = 20.0
# A workload of this many CPU seconds per CPU since the last pass may have used and freed memory without
# changing the totals.
STALE_WORK_CPU_S = 2.0
# The same for a burst that ended the idleness (`make clean`), in CPU seconds of all CPUs together.
STALE_BURST_CPU_S = 1.0
# With less of its RAM available, the guest itself is short of memory.
TIGHT_AVAILABLE_PERCENT = 6


class PolicyState(Record):
    """The state of the policy between decisions. All times are monotonic seconds.

    `current` is the pass under way. `after_pass` is the guest at the end of the last one, which began at
    `after_pass_urgency`; `after_pass_work_cpu_s` is the workload's CPU time until then.
    """

    current: Pass | None = None
    rest_until_s: float = 0.0
    after_pass: Snapshot | None = None
    after_pass_work_cpu_s: float = 0.0
    after_pass_urgency: int = URGENCY_ALONE
    compaction: Compacting = Compacting()
    floor: FloorState = FloorState()
    anon: ColdAnonState | None = None
    busy: BusySteps | None = None
    ended_regret: EndedRegret = EndedRegret()
    judged: JudgedCache | None = None
    next_ended_s: float = 0.0

    @property
    def in_pass(self) -> bool:
        """Whether a pass is under way."""
        return self.current is not None

    @property
    def in_short_report(self) -> bool:
        """Whether the report order is lowered for a short report in a busy guest."""
        return self.busy is not None and self.busy.lowers

    def is_step_due(self, activity: Activity, now_s: float) -> bool:
        """Tell whether a small step may be due, so that a full snapshot is worth its cost."""
        if self.busy is not None and self.busy.begun is not None:
            return True
        return not idleness.why_no_step(activity) and (
            self.busy is None or now_s >= self.busy.next_s
        )


def decide(
    seen: GuestObservation, state: PolicyState, settings: AgentSettings, can: KernelCapabilities
) -> Decision:
    """Return the actions to do now, with at most one step, and the new state."""
    state = _learn_refaults(seen, state)
    if not state.ended_regret.may_take(seen.snapshot.monotonic_s):
        seen = replace(seen, ended_bytes=0)
    why_stop = _why_stop(seen)
    if seen.running is not None:
        return (_abandon(seen, why_stop) if _must_end(seen, state, why_stop) else ()), state
    state = _learn_outcome(seen, state)
    if state.current is not None:
        return _go_on(_tick(seen, state, settings, can), state, state.current, why_stop)
    if state.busy is not None and state.busy.lowers:
        from giveback_agent.policy import busy_steps

        actions, busy = busy_steps.go_on(_tick(seen, state, settings, can), state.busy)
        return actions, replace(state, busy=busy)
    if not why_stop:
        state = _remember_lists(seen.snapshot, state)
    tick = _tick(seen, state, settings, can)
    if not why_stop and _is_idle_enough(seen, state) and _is_worth_a_pass(tick, state):
        why = f"idle at {seen.activity.busy_percent:.0f} % busy"
        planned = release_pass.plan(tick, may_take_cold=_is_cold_new(tick, state))
        return _begin(tick, state, planned, why)
    if not why_stop and settings.swap and can.cold_anon:
        # Few guests have this setting. The others do not pay for the import.
        from giveback_agent.policy import cold_anon

        anon_step, anon = cold_anon.next_step(tick, state.anon or cold_anon.ColdAnonState())
        state = replace(state, anon=anon)
        if anon_step is not None:
            return (anon_step,), state
    return _step_beside_work(tick, state)


def begin_manually(
    seen: GuestObservation, settings: AgentSettings, can: KernelCapabilities
) -> Decision:
    """Begin a pass that a user asked for: every step that this kernel offers, however little it may free.

    Continue with `decide` until the state is no longer `in_pass`.
    """
    state, why_stop = PolicyState(), _why_stop(seen)
    if why_stop:
        return (EndPass(why_stop),), state
    tick = _tick(seen, state, settings, can)
    return _begin(tick, state, release_pass.plan(tick, manual=True), "manual")


def _tick(
    seen: GuestObservation, state: PolicyState, settings: AgentSettings, can: KernelCapabilities
) -> Tick:
    may_take_ended = state.ended_regret.may_take(seen.snapshot.monotonic_s)
    return Tick(seen, settings, can, state.after_pass, state.floor.learned_bytes, may_take_ended)


def _learn_refaults(seen: GuestObservation, state: PolicyState) -> PolicyState:
    """Learn from refaults, except while a step runs.

    A cold step causes refaults itself, 2 MiB for each list that it trains. They do not count.
    """
    if state.current is not None or seen.running is not None:
        floor = cache_goal.settle(state.floor)
        return state if floor is state.floor else replace(state, floor=floor)
    floor = cache_goal.settle(state.floor) if seen.outcome is not None else state.floor
    return replace(
        state,
        floor=cache_goal.learn(floor, seen.snapshot),
        ended_regret=cache_goal.learn_regret(state.ended_regret, seen.snapshot),
    )


def _must_end(seen: GuestObservation, state: PolicyState, why_stop: str) -> bool:
    """Tell whether the running step is to be abandoned.

    A returning workload does not stop a step for ended cgroups, as it does not use their cache. A small
    step was begun while the guest was busy; it is stopped only if CPU or memory get short.
    """
    if not why_stop or is_tight(seen.snapshot):
        return bool(why_stop)
    if state.busy is not None and state.busy.begun is not None:
        return seen.activity.short_of_memory or not idleness.has_spare_cpu(
            seen.activity.busy_percent
        )
    return seen.running != ReclaimEnded.kind


def _why_stop(seen: GuestObservation) -> str:
    """Return why no pass may run now, or "" if one may.

    A busy guest does not stop it at urgency 3: the host would swap out its memory, which slows the
    workload more than a pass.
    """
    if seen.activity.level == idleness.BUSY and seen.urgency < URGENCY_STARVING:
        return idleness.GOT_BUSY
    short = is_tight(seen.snapshot) or seen.activity.short_of_memory
    return "the guest is short of memory" if short else ""


def is_tight(snapshot: Snapshot) -> bool:
    """Tell whether the guest itself is short of memory, so that nothing may be reclaimed."""
    memory = snapshot.meminfo
    if snapshot.below_low_watermark:
        return True
    return memory.mem_available_bytes * 100 < memory.mem_total_bytes * TIGHT_AVAILABLE_PERCENT


def _abandon(seen: GuestObservation, why: str) -> tuple[Action, ...]:
    # The order first: while it is lowered, each page that the workload frees costs it more CPU time.
    return (RestoreOrder(why), Abandon(why)) if seen.lowered else (Abandon(why),)


def _learn_outcome(seen: GuestObservation, state: PolicyState) -> PolicyState:
    outcome, current = seen.outcome, state.current
    if outcome is None:
        return state
    if state.busy is not None and state.busy.begun is not None:
        from giveback_agent.policy import busy_steps

        state = replace(state, busy=busy_steps.after_step(seen, state.busy, outcome))
    state = _remember_cold(seen.snapshot, state, outcome)
    if outcome.kind == Compact.kind:
        learned = compaction.learned(state.compaction, outcome, seen.snapshot)
        return replace(state, compaction=learned)
    if outcome.kind == Reclaim.kind and not outcome.ok and current is not None:
        # The kernel has no more to give.
        return replace(state, current=replace(current, goal_bytes=0))
    return state


def _remember_cold(now: Snapshot, state: PolicyState, outcome: StepOutcome) -> PolicyState:
    """Record when a pass last judged all cache, and the least cache since then."""
    takes_cache = outcome.kind in (ReclaimCold.kind, Reclaim.kind, DropCaches.kind)
    is_whole = state.current is not None and not state.current.is_cut
    if takes_cache and not outcome.abandoned and is_whole:
        return replace(state, judged=JudgedCache(now.monotonic_s, now.cache_bytes))
    if state.judged is not None and now.cache_bytes < state.judged.cache_bytes:
        return replace(state, judged=replace(state.judged, cache_bytes=now.cache_bytes))
    return state


def _is_cold_new(tick: Tick, state: PolicyState) -> bool:
    """Tell whether there is cache that the last cold step has not judged.

    Without it, a pass for trapped memory or for ended cgroups has no cold step.
    """
    if tick.presses or tick.seen.urgency > state.after_pass_urgency:
        return True
    return _has_new_cache(tick.now, state)


def _has_new_cache(now: Snapshot, state: PolicyState) -> bool:
    if state.judged is None:
        return True
    least_bytes = thresholds.least_bytes(now.meminfo)
    return not state.judged.is_all_judged(now.cache_bytes, now.monotonic_s, least_bytes)


def _go_on(tick: Tick, state: PolicyState, current: Pass, why_stop: str) -> Decision:
    """Continue the pass, or end it."""
    if not why_stop and tick.seen.urgency > max(current.urgency, URGENCY_ALONE):
        # Its steps were planned for a lower urgency: begin a new pass, which also takes warm cache.
        why_stop = "the host needs more"
    if why_stop:
        return _end(tick, state, current, why_stop)
    if current.hold is None:
        return _take_step(tick, state, current)
    hold, why_over = current.hold.go_on(tick.seen, current.manual or tick.presses)
    if hold is None:
        return _end(tick, state, current, why_over)
    return (), replace(state, current=replace(current, hold=hold))


def _take_step(tick: Tick, state: PolicyState, current: Pass) -> Decision:
    step, rest = release_pass.next_step(tick, current, state.compaction)
    if step is None:
        return _end(tick, state, current, "done")
    state = _begun(tick, replace(state, current=rest), step)
    if isinstance(step, LowerOrder):
        return (step, TriggerReporting()), state
    return (step,), state


def _begun(tick: Tick, state: PolicyState, step: Action) -> PolicyState:
    """Record the state from which the outcome of a step that begins will be judged."""
    if isinstance(step, Compact):
        begun = replace(state.compaction, before_bytes=tick.now.trapped_bytes or 0)
        return replace(state, compaction=begun)
    if isinstance(step, ReleaseStep) and step.takes_ended and tick.seen.ended_bytes:
        now_s, ended = tick.now.monotonic_s, tick.seen.ended_bytes
        return replace(state, ended_regret=cache_goal.took_ended(state.ended_regret, now_s, ended))
    return state


def _end(tick: Tick, state: PolicyState, current: Pass, why: str) -> Decision:
    """End the pass. After a complete one, the next begins because of what has changed since."""
    now, lowered, holding = tick.now, tick.seen.lowered, current.hold is not None
    # A pass that was stopped while it waited for the kernel's reports has wasted no CPU time.
    rest_s = REST_S if why == "done" or holding else CUT_SHORT_REST_S
    state = replace(
        state,
        current=None,
        rest_until_s=now.monotonic_s + rest_s,
        floor=cache_goal.settle(state.floor),
    )
    if why == "done":
        state = replace(
            state,
            compaction=replace(state.compaction, known=now if lowered else None),
            after_pass=now,
            after_pass_work_cpu_s=tick.seen.activity.work_cpu_s,
            after_pass_urgency=current.urgency,
        )
    else:
        urgency = min(current.urgency, state.after_pass_urgency)
        state = replace(
            state,
            after_pass=_left_by_hold(now, tick.last) if holding else tick.last,
            after_pass_urgency=urgency,
        )
    restore = (RestoreOrder(why),) if lowered or holding else ()
    return (*restore, EndPass(why)), state


def _left_by_hold(now: Snapshot, last: Snapshot | None) -> Snapshot:
    """Return the guest after a hold that was stopped.

    Only reporting was left to do. How much was reported is unknown, so none of it is assumed.
    """
    before_bytes = 0 if last is None else last.trapped_bytes or 0
    return replace(now, trapped_bytes=min(now.trapped_bytes or 0, before_bytes))


def _remember_lists(now: Snapshot, state: PolicyState) -> PolicyState:
    """Add to `after_pass` the bytes on per-CPU lists, which only the next full snapshot reads."""
    last = state.after_pass
    if last is None or last.pcp_bytes is not None or now.pcp_bytes is None:
        return state
    return replace(state, after_pass=replace(last, pcp_bytes=now.pcp_bytes))


def must_rest(state: PolicyState, activity: Activity, now_s: float) -> bool:
    """Tell whether no pass may begin yet in an idle guest, however much it could free."""
    return now_s < state.rest_until_s or _only_pauses(state, activity, now_s)


def _only_pauses(state: PolicyState, activity: Activity, now_s: float) -> bool:
    """Tell whether the guest was busy a moment ago: a short pause is not the end of its workload."""
    ended_s = None if state.busy is None else state.busy.ended_s
    if ended_s is None or now_s - ended_s > AT_WORK_S:
        return False
    return idleness.only_pauses(activity, now_s)


def _is_idle_enough(seen: GuestObservation, state: PolicyState) -> bool:
    """Tell whether the guest is idle enough for a pass. A higher urgency needs less idleness."""
    if seen.urgency >= URGENCY_STARVING:
        return True
    if seen.urgency == URGENCY_TIGHT and seen.activity.level == idleness.SPARE:
        return True
    if seen.urgency <= URGENCY_ALONE and _only_pauses(
        state, seen.activity, seen.snapshot.monotonic_s
    ):
        return False
    return seen.activity.level == idleness.IDLE


def _is_worth_a_pass(tick: Tick, state: PolicyState) -> bool:
    """Tell whether enough could be freed, or has become stuck since the last pass."""
    now, last, least = tick.now, tick.last, thresholds.least_bytes(tick.now.meminfo)
    needs_more = tick.seen.urgency > state.after_pass_urgency
    if now.monotonic_s < state.rest_until_s and not needs_more:
        return False
    if release_pass.takes_ended(tick):
        return True
    goal = cache_goal.goal_after_sync_bytes(tick)
    stuck = thresholds.stuck_bytes(now, tick.can) if tick.reports else 0
    if last is None or needs_more:
        return goal >= least or stuck >= least
    if goal >= least and _has_new_cache(now, state):
        return True
    if not tick.reports:
        return False
    grown = thresholds.newly_stuck_bytes(now, last, tick.can)
    return grown >= least or (stuck >= 2 * least and _is_stale(tick, state, last))


def _is_stale(tick: Tick, state: PolicyState, last: Snapshot) -> bool:
    """Tell whether memory may have been reported, used and freed again, which totals do not show."""
    activity = tick.seen.activity
    worked_s = activity.work_cpu_s - state.after_pass_work_cpu_s
    burst = (activity.idle_since_s or 0.0) > last.monotonic_s
    return worked_s >= (STALE_BURST_CPU_S if burst else STALE_WORK_CPU_S * tick.now.cpustat.cpus)


def _begin(tick: Tick, state: PolicyState, planned: Pass, why: str) -> Decision:
    actions, state = _take_step(tick, state, planned)
    return (BeginPass(why), *actions), state


def _step_beside_work(tick: Tick, state: PolicyState) -> Decision:
    """Take one step outside of a pass: for ended cgroups, else a small step in a busy guest.

    Cache of ended cgroups is reclaimed even while the guest is busy: it runs at SCHED_IDLE and touches no
    working set.
    """
    now, activity = tick.now, tick.seen.activity
    if (
        is_tight(now)
        or activity.short_of_memory
        or not idleness.has_spare_cpu(activity.busy_percent)
    ):
        return (), state
    if release_pass.takes_ended(tick):
        if now.monotonic_s < state.next_ended_s:
            return (), state
        step = ReclaimEnded()
        state = replace(state, next_ended_s=now.monotonic_s + ENDED_PERIOD_S)
        return (step,), _begun(tick, state, step)
    is_idle = activity.level == idleness.IDLE
    if is_idle or now.monotonic_s < state.rest_until_s or idleness.why_no_step(activity):
        return (), state
    # Imported here: an idle guest is spared its 0.3 MiB.
    from giveback_agent.policy import busy_steps

    busy = state.busy or busy_steps.BusySteps()
    actions, busy = busy_steps.take(tick, busy, state.compaction)
    state = replace(state, busy=busy)
    return actions, _begun(tick, state, actions[0]) if actions else state
