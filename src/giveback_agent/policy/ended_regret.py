"""Wait longer before the next take from ended cgroups, where a service came back for the last. Pure.

A service that is restarted, or a build that runs every minute, reads the same files again. On two lists
the kernel counts that as refaults. On the multi-gen LRU it does not: a page's past is lost with its cgroup.
There it shows as cache that grows by what is read from disk, within a minute of the take.
"""

from __future__ import annotations

from giveback_agent.policy import cache_goal
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot

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


def took(state: EndedRegret, now_s: float, taken_bytes: int) -> EndedRegret:
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


def learn(state: EndedRegret, now: Snapshot) -> EndedRegret:
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
    came_back_bytes = refaults * cache_goal.page_bytes(now)
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
