"""How much cache to reclaim, and how much of the inactive cache stays: a floor that is learned. Pure.

A refault (mm/workingset.c) is the kernel's own evidence that a page was reclaimed too early. Only refaults of
pages that the agent reclaimed count, once each. The floor grows by these bytes; long quiet lowers it.

All cache of ended cgroups is reclaimed. If a restarted service reads it again, the next reclaim of such cache
waits longer. With the two-list LRU the kernel counts that as refaults. With the multi-gen LRU it does not: a
page's history is lost with its cgroup. There it shows as cache that grows with reads from disk soon after.
"""

from __future__ import annotations

from giveback_agent.policy import thresholds
from giveback_agent.policy.observation import (
    GENERATIONS,
    NO_METHOD,
    URGENCY_ALONE,
    URGENCY_NONE,
    URGENCY_STARVING,
    URGENCY_TIGHT,
)
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot, Tick

MIB = 1 << 20
# Fewer refaulted bytes than this between two polls are ordinary noise of a running guest.
NOISE_BYTES = 4 * MIB
# Refaults of this part of the reclaimed bytes are accepted, if that is more than NOISE_BYTES.
ACCEPTED_PERCENT = 2
DECAY_S = 600.0
# Refaults count only this long after the reclaim: the kernel evicts pages by itself as well.
TAKEN_S = 600.0
# The learned floor is at most half of the guest's RAM, however much was refaulted.
MOST_DIVISOR = 2
# New cache among the kept (see among_kept_bytes) is reclaimed if it is this many times the kept.
REOPEN_TIMES_KEPT = 3
# The older generation counts as empty if it is smaller than 1/16 of the new cache.
CLOSED_DIVISOR = 16
# Kept cache may have become cold in the meantime: try again this long after a cold step.
RETRY_COLD_S = 3600.0
# Cache of ended cgroups that is read again within this time was reclaimed too early.
REGRET_S = 60.0
FIRST_WAIT_S = 60.0
MOST_WAIT_S = 3600.0
# A learned wait is forgotten after this long without another regret.
FORGET_S = 4 * 3600.0
# Regret is 1/8 of the reclaimed bytes in refaults, or 1/2 in reads from disk: these may be of other files.
REFAULT_DIVISOR = 8
READ_DIVISOR = 2
# More reads than this many times the reclaimed bytes are of other files, and decide nothing.
OTHER_TIMES = 4
KIB = 1024


class FloorState(Record):
    """The learned floor in bytes (0: nothing learned), when it last changed, and the last counters.

    `taken_bytes` is the cache that the agent has reclaimed up to `taken_s` (monotonic seconds) and that
    was not refaulted. `refaults` and `stolen` are in pages, as the kernel counts them; `refaults` None:
    count from the next poll on. `came_back_bytes` are refaults that are still within what is accepted.
    """

    learned_bytes: int = 0
    changed_s: float = 0.0
    refaults: int | None = None
    stolen: int | None = None
    taken_bytes: int = 0
    taken_s: float = 0.0
    came_back_bytes: int = 0


def learn(state: FloorState, now: Snapshot) -> FloorState:
    """Return the floor after a poll while the agent runs no step. A reset counter starts again.

    Each refaulted byte, of those that the agent reclaimed, raises the floor by one byte.
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
    """Return the floor while a step runs: refaults until the next poll are due to the agent's training."""
    return state if state.refaults is None else replace(state, refaults=None)


def _with_taken(state: FloorState, now: Snapshot) -> FloorState:
    """Return the state with the pages stolen since the last poll, which are due to the agent's steps."""
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
    """Return the bytes of cold cache that a pass would reclaim at `urgency`.

    `learned_bytes` stay at urgency 0 and 1. `setting_bytes` of the whole cache stay at any urgency.
    """
    learned = learned_bytes if urgency <= URGENCY_ALONE else 0
    return max(0, min(cold_bytes - learned, cache_bytes - setting_bytes))


def wanted_bytes(cache_bytes: int, cold_bytes: int, floor: int, urgency: int) -> int:
    """Return the cache bytes to reclaim: none at urgency 0, cold at 1, also warm above `floor` at 2 and 3."""
    if urgency <= URGENCY_NONE:
        return 0
    above_floor = max(0, cache_bytes - floor)
    cold = min(cold_bytes, above_floor)
    if urgency == URGENCY_ALONE:
        return cold
    return max(cold, above_floor // 2) if urgency == URGENCY_TIGHT else above_floor


def goal_bytes(tick: Tick) -> int:
    """Return the cache bytes to reclaim at this urgency, with the interfaces of this kernel."""
    goal = _goal_bytes(tick, tick.now.cold_cache_bytes, tick.now.meminfo.dirty_bytes)
    return min(goal, wanted_by_host_bytes(tick))


def goal_after_sync_bytes(tick: Tick) -> int:
    """Return the goal as it will be after the sync at the begin of a pass.

    A workload often ends with its last files dirty. The kernel writes them half a minute later, when a
    quiet guest is sampled only once a minute.
    """
    cold = max(tick.now.cold_cache_bytes, tick.now.meminfo.inactive_file_bytes)
    return min(_goal_bytes(tick, cold, 0), wanted_by_host_bytes(tick))


def is_cut_by_host(tick: Tick) -> bool:
    """Tell whether the host wants less cache than a pass would take; the rest is then not judged."""
    cold = max(tick.now.cold_cache_bytes, tick.now.meminfo.inactive_file_bytes)
    return wanted_by_host_bytes(tick) < _goal_bytes(tick, cold, 0)


def wanted_by_host_bytes(tick: Tick) -> int:
    """Return the most cache bytes that the host wants: all above `kept_cache_bytes`."""
    return max(0, tick.now.cache_bytes - tick.seen.kept_cache_bytes)


def may_drop(tick: Tick) -> bool:
    """Tell whether all cache may be dropped, without a floor: at urgency 3, if no cgroup is excluded.

    Not if the host asked for an amount that leaves cache: no more is reclaimed than was asked for.
    """
    if tick.seen.kept_cache_bytes >= thresholds.least_bytes(tick.now.meminfo):
        return False
    return (
        not tick.settings.exclude and tick.can.drop_caches and tick.seen.urgency >= URGENCY_STARVING
    )


def among_kept_bytes(tick: Tick) -> int:
    """Return the bytes of new cache in the generation that the last pass kept; 0 if they are few.

    With the multi-gen LRU new cache is put into the second youngest generation if no older one exists:
    there lies the cache that the last pass kept. The kernel counts it as active. Both are reclaimed
    together if the kept cache is the small part.
    """
    return _among_kept_bytes(tick, tick.now.meminfo.dirty_bytes)


def _goal_bytes(tick: Tick, cold_bytes: int, dirty_bytes: int) -> int:
    can, cache_bytes, urgency = tick.can, tick.now.cache_bytes, tick.seen.urgency
    floor, learned = tick.settings.cache_floor_bytes, tick.learned_floor_bytes
    cold = takeable_bytes(cold_bytes, learned, cache_bytes, floor, urgency)
    goal = wanted_bytes(cache_bytes, cold, floor, urgency)
    if urgency <= URGENCY_ALONE:
        # If cold cache cannot be distinguished from warm, all cache stays.
        if can.cold_method == NO_METHOD or urgency <= URGENCY_NONE:
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
    """The time of the last cold step (monotonic seconds), and the least cache since then in bytes.

    The cache that it kept has lost its history (eviction_plan.py): a second step soon after would
    reclaim it as cold. So the next step waits for new cache, or until the kept cache may be cold.
    """

    at_s: float
    cache_bytes: int

    def is_all_judged(self, cache_bytes: int, now_s: float, least_bytes: int) -> bool:
        """Tell whether that step judged the present cache: fewer than `least_bytes` are new."""
        grown = cache_bytes - self.cache_bytes
        return grown < least_bytes and now_s - self.at_s <= RETRY_COLD_S


class EndedRegret(Record):
    """How long to wait before cache of ended cgroups is reclaimed again, and the last reclaim of it.

    `wait_s` is the learned wait, 0 without a regret; it ends at `until_s`. `taken_bytes` were reclaimed at
    `taken_s`, 0 if that is no longer watched. The counters are those at its end, None until the first
    poll after it: `refaults` in pages, `read_kib` read from disk. `is_suspected`: about as much
    was read since as had been taken, which is regret once its time is over.
    """

    wait_s: float = 0.0
    until_s: float = 0.0
    regretted_s: float = 0.0
    taken_bytes: int = 0
    taken_s: float = 0.0
    refaults: int | None = None
    read_kib: int | None = None
    cache_bytes: int = 0
    is_suspected: bool = False

    def may_take(self, now_s: float) -> bool:
        """Tell whether cache of ended cgroups may be reclaimed again."""
        return now_s >= self.until_s


def took_ended(state: EndedRegret, now_s: float, taken_bytes: int) -> EndedRegret:
    """Return the state after a reclaim of `taken_bytes` began: it is watched for regret.

    What was taken shortly before, which is still watched, is watched with it: the rest of a large cache
    alone would look small beside what is read again.
    """
    if now_s - state.taken_s <= REGRET_S:
        taken_bytes += state.taken_bytes
    if state.wait_s and now_s - state.regretted_s > FORGET_S:
        state = replace(state, wait_s=0.0)
    return replace(
        state,
        until_s=now_s + state.wait_s,
        taken_bytes=taken_bytes,
        taken_s=now_s,
        refaults=None,
        read_kib=None,
        is_suspected=False,
    )


def learn_regret(state: EndedRegret, now: Snapshot) -> EndedRegret:
    """Return the state after a poll between steps, which decides whether the last reclaim was regretted."""
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
    read_bytes = ((vm.pgpgin or 0) - (state.read_kib or 0)) * KIB
    grown_bytes = min(read_bytes, now.cache_bytes - state.cache_bytes)
    if now.monotonic_s - state.taken_s <= REGRET_S:
        if refaults * page_bytes(now) * REFAULT_DIVISOR >= state.taken_bytes:
            return _regretted(state, now)
        return _suspected(state, grown_bytes)
    if state.is_suspected:
        return _regretted(state, now)
    halved_s = state.wait_s / 2
    return replace(state, wait_s=halved_s if halved_s >= FIRST_WAIT_S else 0.0, taken_bytes=0)


def _suspected(state: EndedRegret, grown_bytes: int) -> EndedRegret:
    """Return the state in which no more is taken, until the time is over, if what was read may be the same.

    If far more was read than taken, other files are what is read: the take costs little beside them.
    """
    if grown_bytes > OTHER_TIMES * state.taken_bytes:
        until_s = state.taken_s + state.wait_s
        return replace(state, until_s=until_s, taken_bytes=0, is_suspected=False)
    if grown_bytes * READ_DIVISOR < state.taken_bytes:
        return state
    return replace(state, until_s=max(state.until_s, state.taken_s + REGRET_S), is_suspected=True)


def _regretted(state: EndedRegret, now: Snapshot) -> EndedRegret:
    wait_s = min(MOST_WAIT_S, max(FIRST_WAIT_S, state.wait_s * 2))
    return replace(
        state,
        wait_s=wait_s,
        until_s=state.taken_s + wait_s,
        regretted_s=now.monotonic_s,
        taken_bytes=0,
        is_suspected=False,
    )
