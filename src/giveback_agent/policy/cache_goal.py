"""How much cache to take, and how much of what looks cold stays: a floor that learns. Pure.

A refault (mm/workingset.c) is the kernel's own evidence that a page was taken too early. Only pages that the
agent has taken count, once each: so much of the cold-looking cache stays from then on. Long quiet lowers it.

Of ended cgroups all cache is taken. Where a service that is restarted comes back for it, the next take
waits longer. On two lists the kernel counts that as refaults. On the multi-gen LRU it does not: a page's
past is lost with its cgroup. There it shows as cache that grows by what is read from disk soon after.
"""

from __future__ import annotations

from giveback_agent.policy import thresholds
from giveback_agent.policy.observation import (
    GENERATIONS,
    NO_METHOD,
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
# The same as a part of what was taken, where that is more: so much regret is accepted.
ACCEPTED_PERCENT = 2
DECAY_S = 600.0
# What was taken longer ago than this does not count any more: the kernel evicts for itself, too.
TAKEN_S = 600.0
# However much comes back: half of the guest's RAM at most is kept on suspicion.
MOST_DIVISOR = 2
# New cache among the kept (see among_kept_bytes) is taken where it is this many times the kept.
REOPEN_TIMES_KEPT = 3
# The older generation counts as empty where it has less than this part of the new cache.
CLOSED_DIVISOR = 16
# Cache that was kept may have grown cold all the same: try again this long after a cold step.
RETRY_COLD_S = 3600.0
# Read again so soon after the take, it was taken too early.
REGRET_S = 60.0
FIRST_WAIT_S = 60.0
MOST_WAIT_S = 3600.0
# A wait that was not renewed for so long is forgotten.
FORGET_S = 4 * 3600.0
# This part of what was taken, read again, is regret; of what is read from disk much may be other files.
REFAULT_DIVISOR = 8
READ_DIVISOR = 2
KIB = 1024


class FloorState(Record):
    """The learned floor (0: nothing learned), when it last changed, and the counters seen at the last look.

    `taken_bytes` is what the agent has taken since `taken_s`, or shortly before, and has not come back.
    `refaults` and `stolen` count pages, as the kernel does; `refaults` None: start again from the next look.
    `came_back_bytes` are refaults that are still within what is accepted.
    """

    learned_bytes: int = 0
    changed_s: float = 0.0
    refaults: int | None = None
    stolen: int | None = None
    taken_bytes: int = 0
    taken_s: float = 0.0
    came_back_bytes: int = 0


def learn(state: FloorState, now: Snapshot) -> FloorState:
    """Return the floor after a look at a guest in which the agent does nothing. A reset counter starts again.

    Each byte that came back, of those that the agent took, keeps one byte of what looks cold.
    """
    refaults, before = _refaults(now), state.refaults
    if refaults is None:
        return state
    if before is None or refaults < before:
        return replace(_with_taken(state, now), refaults=refaults, stolen=_stolen(now))
    if now.monotonic_s - state.taken_s > TAKEN_S:
        state = replace(state, taken_bytes=0, came_back_bytes=0)
    came_back = min((refaults - before) * page_bytes(now), state.taken_bytes)
    came_back += state.came_back_bytes
    state = replace(state, refaults=refaults, stolen=_stolen(now), came_back_bytes=came_back)
    if came_back >= max(NOISE_BYTES, state.taken_bytes * ACCEPTED_PERCENT // 100):
        most = now.meminfo.mem_total_bytes // MOST_DIVISOR
        return replace(
            state,
            learned_bytes=min(state.learned_bytes + came_back, most),
            changed_s=now.monotonic_s,
            taken_bytes=max(0, state.taken_bytes - came_back),
            came_back_bytes=0,
        )
    if state.learned_bytes and now.monotonic_s - state.changed_s > DECAY_S:
        left = state.learned_bytes * 3 // 4
        left = left if left >= NOISE_BYTES else 0
        return replace(state, learned_bytes=left, changed_s=now.monotonic_s)
    return state


def settle(state: FloorState) -> FloorState:
    """Return the floor while a step runs: the refaults until the next look are the agent's own training."""
    return state if state.refaults is None else replace(state, refaults=None)


def _with_taken(state: FloorState, now: Snapshot) -> FloorState:
    """Return the state with what was stolen since the last look: the agent's, as its steps ran."""
    stolen = _stolen(now)
    if state.stolen is None or stolen is None or stolen <= state.stolen:
        return state
    is_old = now.monotonic_s - state.taken_s > TAKEN_S
    before = 0 if is_old else state.taken_bytes
    taken = before + (stolen - state.stolen) * page_bytes(now)
    return replace(state, taken_bytes=taken, taken_s=now.monotonic_s)


def page_bytes(now: Snapshot) -> int:
    """Return the guest's page size in bytes."""
    return now.buddy.page_size_bytes if now.buddy is not None else 4096


def _stolen(snapshot: Snapshot) -> int | None:
    return None if snapshot.vmstat is None else snapshot.vmstat.pgsteal_file


def _refaults(snapshot: Snapshot) -> int | None:
    return None if snapshot.vmstat is None else snapshot.vmstat.workingset_refault_file


def takeable_bytes(
    cold_bytes: int, learned_bytes: int, cache_bytes: int, setting_bytes: int, urgency: int
) -> int:
    """Return the cold cache that a pass would take at `urgency`: what refaults have shown to be in use stays.

    `setting_bytes` of the whole cache stay in any case. Where the host is in need nothing else does.
    """
    learned = learned_bytes if urgency <= URGENCY_ALONE else 0
    return max(0, min(cold_bytes - learned, cache_bytes - setting_bytes))


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
    goal = _goal_bytes(tick, tick.now.cold_cache_bytes, tick.now.meminfo.dirty_bytes)
    return min(goal, wanted_by_host_bytes(tick))


def goal_after_sync_bytes(tick: Tick) -> int:
    """Return the goal as it will be once what is dirty now is written, which a pass begins with.

    A workload often ends with its last files dirty. The kernel writes them half a minute later, when a
    quiet guest is sampled but once a minute.
    """
    cold = max(tick.now.cold_cache_bytes, tick.now.meminfo.inactive_file_bytes)
    return min(_goal_bytes(tick, cold, 0), wanted_by_host_bytes(tick))


def is_cut_by_host(tick: Tick) -> bool:
    """Tell whether the host wants less than a pass would take: what is left of it was not looked at then."""
    cold = max(tick.now.cold_cache_bytes, tick.now.meminfo.inactive_file_bytes)
    return wanted_by_host_bytes(tick) < _goal_bytes(tick, cold, 0)


def wanted_by_host_bytes(tick: Tick) -> int:
    """Return the cache bytes that the host wants at most: what is above the rest that stays for it."""
    return max(0, tick.now.cache_bytes - tick.seen.kept_cache_bytes)


def may_drop(tick: Tick) -> bool:
    """Tell whether all cache may go, without a floor: where the host starves and no cgroup is excluded.

    Not where the host has named an amount that would leave cache: no more is taken than is wanted.
    """
    if tick.seen.kept_cache_bytes >= thresholds.least_bytes(tick.now.meminfo):
        return False
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
    floor, learned = tick.settings.cache_floor_bytes, tick.learned_floor_bytes
    cold = takeable_bytes(cold_bytes, learned, cache_bytes, floor, urgency)
    goal = wanted_bytes(cache_bytes, cold, floor, urgency)
    if urgency <= URGENCY_ALONE:
        # Cold and warm must be told apart, or else the cache stays.
        if can.cold_method == NO_METHOD or urgency <= URGENCY_CALM:
            return 0
        among_kept = _among_kept_bytes(tick, dirty_bytes)
        return max(goal, takeable_bytes(among_kept, learned, cache_bytes, floor, urgency))
    return goal if can.reclaim or can.cold_method != NO_METHOD or may_drop(tick) else 0


def _among_kept_bytes(tick: Tick, dirty_bytes: int) -> int:
    now, last = tick.now.meminfo, tick.last
    if last is None or tick.can.cold_method != GENERATIONS:
        return 0
    kept = last.meminfo.active_file_bytes
    new = now.active_file_bytes - kept - dirty_bytes
    is_closed = now.inactive_file_bytes * CLOSED_DIVISOR < new
    worth_it = new >= max(thresholds.much_bytes(now), REOPEN_TIMES_KEPT * kept)
    return new if is_closed and worth_it else 0


class JudgedCache(Record):
    """When a cold step has last chosen what to keep, and the least cache there has been since, in bytes.

    What that step kept has lost its history (eviction_plan.py): asked again soon, it would go with the
    cold. So the next step waits for new cache, or until what was kept may have grown cold.
    """

    at_s: float
    cache_bytes: int

    def is_all_judged(self, cache_bytes: int, now_s: float, least_bytes: int) -> bool:
        """Tell whether the cache of now is what that step has judged: less than `least_bytes` are new."""
        grown = cache_bytes - self.cache_bytes
        return grown < least_bytes and now_s - self.at_s <= RETRY_COLD_S


class EndedRegret(Record):
    """How long to wait after a take, until when, and the last take while it may still be regretted.

    `wait_s` 0: none was regretted. `taken_bytes` 0: no take is watched. The counters are those at its
    end, None until the first look after it: `refaults` in pages, `read_kib` from disk.
    """

    wait_s: float = 0.0
    until_s: float = 0.0
    regretted_s: float = 0.0
    taken_bytes: int = 0
    taken_s: float = 0.0
    refaults: int | None = None
    read_kib: int | None = None
    cache_bytes: int = 0

    def may_take(self, now_s: float) -> bool:
        """Tell whether ended cgroups may be taken from again."""
        return now_s >= self.until_s


def took_ended(state: EndedRegret, now_s: float, taken_bytes: int) -> EndedRegret:
    """Return the state after a take was begun: it is watched, and the next waits as long as was learned."""
    if state.wait_s and now_s - state.regretted_s > FORGET_S:
        state = replace(state, wait_s=0.0)
    return replace(
        state,
        until_s=now_s + state.wait_s,
        taken_bytes=taken_bytes,
        taken_s=now_s,
        refaults=None,
        read_kib=None,
    )


def learn_regret(state: EndedRegret, now: Snapshot) -> EndedRegret:
    """Return the state after a look between steps: was the last take regretted?"""
    vm = now.vmstat
    if not state.taken_bytes or vm is None:
        return state
    if state.read_kib is None and state.refaults is None:
        return replace(
            state,
            refaults=vm.workingset_refault_file or 0,
            read_kib=vm.pgpgin or 0,
            cache_bytes=now.cache_bytes,
        )
    refaults = (vm.workingset_refault_file or 0) - (state.refaults or 0)
    came_back_bytes = refaults * page_bytes(now)
    read_bytes = ((vm.pgpgin or 0) - (state.read_kib or 0)) * KIB
    grown_bytes = min(read_bytes, now.cache_bytes - state.cache_bytes)
    is_regretted = (
        came_back_bytes * REFAULT_DIVISOR >= state.taken_bytes
        or grown_bytes * READ_DIVISOR >= state.taken_bytes
    )
    is_over = now.monotonic_s - state.taken_s > REGRET_S
    if is_regretted and not is_over:
        wait_s = min(MOST_WAIT_S, max(FIRST_WAIT_S, state.wait_s * 2))
        return replace(
            state,
            wait_s=wait_s,
            until_s=state.taken_s + wait_s,
            regretted_s=now.monotonic_s,
            taken_bytes=0,
        )
    if not is_over:
        return state
    halved_s = state.wait_s / 2
    return replace(state, wait_s=halved_s if halved_s >= FIRST_WAIT_S else 0.0, taken_bytes=0)
