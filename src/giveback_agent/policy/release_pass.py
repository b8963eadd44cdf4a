"""A release pass: its steps, and which of them is next. Pure.

    sync -> cold cache -> (warm cache) -> (slab) -> drain -> compact -> drain -> lower the order, trigger

Each step gets its amounts when its turn comes, from the guest as it is then. It is left out if it is no
longer worth its cost.
"""

from __future__ import annotations

from giveback_agent.policy import actions as act
from giveback_agent.policy import cache_goal, compaction, report_hold, thresholds
from giveback_agent.policy.observation import LIMITS, NO_METHOD, URGENCY_ALONE, URGENCY_NONE
from giveback_agent.policy.report_hold import Hold
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.actions import ReleaseStep
    from giveback_agent.policy.compaction import Compacting
    from giveback_agent.policy.observation import Tick

MIB = 1 << 20
# Plain reclaim goes in bounded steps, so that a returning workload waits for one of them at most.
RECLAIM_STEP_BYTES = 128 * MIB
# More reclaimable slab than 1/16 of RAM is worth the cost of dropping it.
SLAB_DIVISOR = 16


class Pass(Record):
    """A pass under way.

    `urgency`: the host's urgency when it began. `manual`: a user asked for it, so that no step is left
    out because it frees little. `steps` remain to be done, and `goal_bytes` of cache to be reclaimed.
    `hold` is set while the report order is lowered, which is the last step. `is_cut`: the host wants
    less cache than could be reclaimed.
    """

    urgency: int = URGENCY_ALONE
    manual: bool = False
    steps: tuple[type[ReleaseStep], ...] = ()
    goal_bytes: int = 0
    hold: Hold | None = None
    is_cut: bool = False


def plan(tick: Tick, manual: bool = False, may_take_cold: bool = True) -> Pass:
    """Return a pass with the steps that this kernel offers and this urgency needs.

    `may_take_cold`: there is cache that the last cold step has not judged.
    """
    wants_cache = may_take_cold and cache_goal.goal_after_sync_bytes(tick) > 0
    steps = _cache_steps(tick, manual) if wants_cache else ()
    if not wants_cache and takes_ended(tick):
        steps = (act.ReclaimEnded,)
    if tick.reports:
        steps += _report_steps(tick)
    goal, is_cut = cache_goal.goal_bytes(tick), cache_goal.is_cut_by_host(tick)
    return Pass(tick.seen.urgency, manual, steps, goal, is_cut=is_cut)


def takes_ended(tick: Tick) -> bool:
    """Tell whether ended cgroups left enough cache behind, and the urgency is above 0."""
    least = thresholds.least_bytes(tick.now.meminfo)
    wanted = tick.seen.urgency > URGENCY_NONE and tick.can.cold_method != NO_METHOD
    return wanted and tick.seen.ended_bytes >= least


def next_step(tick: Tick, current: Pass, compacting: Compacting) -> tuple[ReleaseStep | None, Pass]:
    """Return the next step that is worth its cost (None if none is left), and the pass without it."""
    for at, kind in enumerate(current.steps, start=1):
        step = _prepare(kind, tick, current, compacting)
        if step is not None:
            return step, _without(step, tick, replace(current, steps=current.steps[at:]))
    return None, current


def _cache_steps(tick: Tick, manual: bool) -> tuple[type[ReleaseStep], ...]:
    """Return the steps for cache: sync first, as dirty pages cannot be reclaimed; slab last.

    Cached pages pin their inodes, so slab comes after them. The kernel has no interface to drop only a
    part of it, and the next read costs a third more CPU without dentries and inodes (docs/cold-cache.md).
    So slab is dropped only if there is much of it, the host needs it, or a user asked for the pass.
    """
    steps: list[type[ReleaseStep]] = [act.Sync]
    if tick.can.cold_method != NO_METHOD:
        steps.append(act.ReclaimCold)
    if tick.presses and tick.can.reclaim:
        steps.append(act.Reclaim)
    elif cache_goal.may_drop(tick):
        steps.append(act.DropCaches)
    elif tick.presses and tick.can.cold_method == LIMITS:
        steps.append(act.Reclaim)
    memory = tick.now.meminfo
    much = memory.s_reclaimable_bytes * SLAB_DIVISOR > memory.mem_total_bytes
    if tick.can.drop_caches and (tick.presses or much or manual):
        steps.append(act.ReclaimSlab)
    return tuple(steps)


def _report_steps(tick: Tick) -> tuple[type[ReleaseStep], ...]:
    steps: list[type[ReleaseStep]] = []
    if tick.can.drain:
        steps.append(act.DrainLists)
    if tick.can.compaction and tick.settings.idle_threshold != 0:
        steps.append(act.Compact)
    steps.append(act.TriggerReporting if tick.deep_order is None else act.LowerOrder)
    return tuple(steps)


def _prepare(
    kind: type[ReleaseStep], tick: Tick, current: Pass, compacting: Compacting
) -> ReleaseStep | None:
    """Return the step with its amounts, or None if it is not worth its cost now."""
    if kind is act.ReclaimCold:
        return _cold(tick, current)
    if kind is act.Reclaim:
        return _warm(tick, current)
    if kind is act.DropCaches:
        # Warm cache stays if the host's need ended after the pass began, or is now for a smaller amount.
        return act.DropCaches("the host needs it") if cache_goal.may_drop(tick) else None
    if kind is act.Compact:
        return _compact(tick, current, compacting)
    if kind is act.LowerOrder:
        return _lower(tick, current)
    return kind()


def _cold(tick: Tick, current: Pass) -> ReleaseStep:
    # Pages that were dirty when the pass began are clean by now.
    amount = max(current.goal_bytes, cache_goal.goal_bytes(tick))
    if tick.presses:
        why = "cold cache; warm cache too if the kernel cannot distinguish them"
        return act.ReclaimCold(why, amount, act.UNTRAINED)
    if cache_goal.among_kept_bytes(tick):
        return act.ReclaimCold("new cache among the kept", amount, act.REOPEN, tick.may_take_ended)
    return act.ReclaimCold("cold cache", amount, act.TRAINED, tick.may_take_ended)


def _warm(tick: Tick, current: Pass) -> ReleaseStep | None:
    # The bytes that the cold step has reclaimed count towards the goal.
    goal = min(current.goal_bytes, cache_goal.goal_bytes(tick))
    if not tick.presses or goal <= 0:
        return None
    amount = min(RECLAIM_STEP_BYTES, goal)
    return act.Reclaim("the host needs it", amount, cache_goal.may_drop(tick))


def _compact(tick: Tick, current: Pass, compacting: Compacting) -> ReleaseStep | None:
    if tick.deep_order == 0 and tick.can.fast_reports:
        # Compaction would only make the report faster, but here small blocks are reported within seconds.
        return None
    # At order 0 single pages are reported without it: compact only if much is trapped.
    much_bytes = thresholds.much_bytes(tick.now.meminfo) if tick.deep_order == 0 else None
    if not current.manual and not compaction.is_worth_it(tick.now, compacting, much_bytes):
        return None
    trapped_mib = (tick.now.trapped_bytes or 0) // MIB
    return act.Compact(
        f"{trapped_mib} MiB in small free blocks", compaction.worthy_nodes(tick.now, compacting)
    )


def _lower(tick: Tick, current: Pass) -> ReleaseStep | None:
    is_little = (tick.now.trapped_bytes or 0) < report_hold.LEAST_TRAPPED_BYTES
    if is_little and not current.manual:
        return None
    return act.LowerOrder("memory is left in small free blocks", tick.deep_order or 0)


def _without(step: ReleaseStep, tick: Tick, rest: Pass) -> Pass:
    """Return the rest of the pass after `step` has begun."""
    if isinstance(step, act.Reclaim):
        left = max(0, rest.goal_bytes - step.amount_bytes)
        steps = (act.Reclaim, *rest.steps) if left else rest.steps
        return replace(rest, steps=steps, goal_bytes=left)
    if isinstance(step, act.Compact) and tick.can.drain:
        # Compaction frees the pages that it moved away to the per-CPU lists: drain them again.
        return replace(rest, steps=(act.DrainLists, *rest.steps))
    if isinstance(step, act.LowerOrder):
        now = tick.now
        return replace(rest, hold=Hold.begin(now.monotonic_s, tick.seen.reports, now.used_bytes))
    return rest
