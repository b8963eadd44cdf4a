"""How much cache to take, and how much stays: a floor that learns. Pure.

A refault (mm/workingset.c) is the kernel's own evidence that a page was taken too early: refaults raise
the floor, and long quiet lowers it.
"""

from __future__ import annotations

from giveback_agent.policy import thresholds
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    URGENCY_CALM,
    URGENCY_STARVING,
    URGENCY_TIGHT,
)
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot, Tick

MIB = 1 << 20
# Fewer refaults than this between two looks are the ordinary noise of a working guest.
NOISE_BYTES = 4 * MIB
RAISE_BYTES = 64 * MIB
DECAY_S = 600.0
# However much comes back: half of the guest's RAM at most is kept on suspicion.
MOST_DIVISOR = 2
# New cache among the kept (see among_kept_bytes) is taken where it is this many times the kept.
REOPEN_TIMES_KEPT = 3
# The older generation counts as empty where it has less than this part of the new cache.
CLOSED_DIVISOR = 16


class FloorState(Record):
    """The learned floor (0: nothing learned), when it last changed, and the refaults seen so far."""

    learned_bytes: int = 0
    changed_s: float = 0.0
    refaults: int | None = None


def learn(state: FloorState, now: Snapshot, least_bytes: int) -> FloorState:
    """Return the floor after a look; `least_bytes` is the setting's. A reset counter starts anew."""
    refaults = _refaults(now)
    if refaults is None:
        return state
    if state.refaults is None or refaults < state.refaults:
        return replace(state, refaults=refaults)
    page_bytes = now.buddy.page_size_bytes if now.buddy is not None else 4096
    came_back = (refaults - state.refaults) * page_bytes
    if came_back >= NOISE_BYTES:
        raised = max(state.learned_bytes, least_bytes) + came_back + RAISE_BYTES
        most = now.meminfo.mem_total_bytes // MOST_DIVISOR
        return FloorState(min(raised, most), now.monotonic_s, refaults)
    if state.learned_bytes and now.monotonic_s - state.changed_s > DECAY_S:
        return FloorState(state.learned_bytes * 3 // 4, now.monotonic_s, refaults)
    return state


def settle(state: FloorState, now: Snapshot) -> FloorState:
    """Return the floor at a pass's end: the refaults in it are the agent's own teaching."""
    refaults = _refaults(now)
    return state if refaults is None else replace(state, refaults=refaults)


def _refaults(snapshot: Snapshot) -> int | None:
    return None if snapshot.vmstat is None else snapshot.vmstat.workingset_refault_file


def floor_bytes(setting_bytes: int, learned_bytes: int, urgency: int) -> int:
    """Return the cache that stays: the setting's floor, and the learned one unless the host is in need."""
    return max(setting_bytes, learned_bytes if urgency <= URGENCY_ALONE else 0)


def wanted_bytes(cache_bytes: int, cold_bytes: int, floor: int, urgency: int) -> int:
    """Return the cache bytes above the floor to take: none at urgency 0, cold at 1, warm too at 2 and 3."""
    if urgency <= URGENCY_CALM:
        return 0
    above_floor = max(0, cache_bytes - floor)
    cold = min(cold_bytes, above_floor)
    if urgency == URGENCY_ALONE:
        return cold
    return max(cold, above_floor // 2) if urgency == URGENCY_TIGHT else above_floor


def goal_bytes(tick: Tick) -> int:
    """Return the cache bytes to take with what this kernel offers at this urgency."""
    return _goal_bytes(tick, tick.now.cold_cache_bytes, tick.now.meminfo.dirty_bytes)


def goal_after_sync_bytes(tick: Tick) -> int:
    """Return the goal as it will be once what is dirty now is written, which a pass begins with.

    A workload often ends with its last files dirty. The kernel writes them half a minute later, when a
    quiet guest is sampled but once a minute.
    """
    cold = max(tick.now.cold_cache_bytes, tick.now.meminfo.inactive_file_bytes)
    return _goal_bytes(tick, cold, 0)


def may_drop(tick: Tick) -> bool:
    """Tell whether all cache may go, without a floor: where the host starves and no cgroup is excluded."""
    return (
        not tick.settings.exclude and tick.can.drop_caches and tick.seen.urgency >= URGENCY_STARVING
    )


def among_kept_bytes(tick: Tick) -> int:
    """Return the new cache that the kernel counts as active since the last pass; 0 where it is little.

    On the multi-gen LRU cache goes to the generation before the last one where none is older: among
    what the last pass has kept. That is given up with it where it is a small part of both.
    """
    return _among_kept_bytes(tick, tick.now.meminfo.dirty_bytes)


def _goal_bytes(tick: Tick, cold_bytes: int, dirty_bytes: int) -> int:
    can, cache_bytes, urgency = tick.can, tick.now.cache_bytes, tick.seen.urgency
    floor = floor_bytes(tick.settings.cache_floor_bytes, tick.learned_floor_bytes, urgency)
    goal = wanted_bytes(cache_bytes, cold_bytes, floor, urgency)
    if urgency <= URGENCY_ALONE:
        # Cold and warm must be told apart, or else the cache stays.
        if can.cold_method == "none" or urgency <= URGENCY_CALM:
            return 0
        return max(goal, min(_among_kept_bytes(tick, dirty_bytes), cache_bytes - floor))
    return goal if can.reclaim or can.cold_method != "none" or may_drop(tick) else 0


def _among_kept_bytes(tick: Tick, dirty_bytes: int) -> int:
    now, last = tick.now.meminfo, tick.last
    if last is None or tick.can.cold_method != "generations":
        return 0
    kept = last.meminfo.active_file_bytes
    new = now.active_file_bytes - kept - dirty_bytes
    is_closed = now.inactive_file_bytes * CLOSED_DIVISOR < new
    worth_it = new >= max(thresholds.much_bytes(now), REOPEN_TIMES_KEPT * kept)
    return new if is_closed and worth_it else 0
