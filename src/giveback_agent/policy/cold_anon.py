"""When to swap out cold anonymous memory, and how much of it; only if the settings allow it. Pure.

The kernel's generations show which pages were not touched (release/cache/cold_anon.py). Pages that are
swapped in again show afterwards whether that was right. After few of them the next step is larger; after
many it is smaller and comes later.
"""

from __future__ import annotations

from giveback_agent.policy.actions import ReclaimColdAnon
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.observation import URGENCY_NONE
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot, Tick

MIB = 1 << 20
# A page that was not touched for this long is cold. Each step also opens a new generation.
PERIOD_S = 300.0
MOST_PERIOD_S = 3600.0
FIRST_STEP_BYTES = 64 * MIB
LEAST_STEP_BYTES = 16 * MIB
STEP_DIVISOR = 8
# A step was a mistake if more than 1/50 of what it swapped out was swapped in again before the next.
REGRET_DIVISOR = 50
NOISE_BYTES = MIB
# A step uses at most half of the free swap: the guest may need it.
SWAP_DIVISOR = 2


class ColdAnonState(Record):
    """The time and size of the next step, and the swap counters after the last one, in pages."""

    next_s: float = 0.0
    period_s: float = PERIOD_S
    step_bytes: int = FIRST_STEP_BYTES
    swapped_in: int | None = None
    swapped_out: int | None = None


def next_step(tick: Tick, state: ColdAnonState) -> tuple[ReclaimColdAnon | None, ColdAnonState]:
    """Return the step that is due now (None if none is) and the new state."""
    now = tick.now
    if not is_wanted(tick) or now.monotonic_s < state.next_s or now.vmstat is None:
        return None, state
    state = _learned(state, now)
    amount = min(state.step_bytes, now.meminfo.swap_free_bytes // SWAP_DIVISOR)
    state = replace(state, next_s=now.monotonic_s + state.period_s)
    if amount < LEAST_STEP_BYTES:
        return None, state
    return ReclaimColdAnon(amount_bytes=amount), state


def is_wanted(tick: Tick) -> bool:
    """Tell whether settings, kernel, urgency and the guest's activity all allow swapping out."""
    allowed = tick.settings.swap and tick.can.cold_anon and tick.seen.urgency > URGENCY_NONE
    activity = tick.seen.activity
    return allowed and activity.level != idleness.BUSY and not activity.short_of_memory


def _learned(state: ColdAnonState, now: Snapshot) -> ColdAnonState:
    """Return the state after counting pages swapped in since the last step; a reset counter is ignored."""
    vmstat = now.vmstat
    if vmstat is None or vmstat.pswpin is None or vmstat.pswpout is None:
        return state
    page_bytes = now.buddy.page_size_bytes if now.buddy is not None else 4096
    counted = replace(state, swapped_in=vmstat.pswpin, swapped_out=vmstat.pswpout)
    if state.swapped_in is None or state.swapped_out is None:
        return counted
    came_back = (vmstat.pswpin - state.swapped_in) * page_bytes
    went_out = (vmstat.pswpout - state.swapped_out) * page_bytes
    if came_back < 0 or went_out < 0:
        return counted
    if came_back > max(NOISE_BYTES, went_out // REGRET_DIVISOR):
        smaller = max(LEAST_STEP_BYTES, state.step_bytes // 2)
        later_s = min(MOST_PERIOD_S, state.period_s * 2)
        return replace(counted, step_bytes=smaller, period_s=later_s)
    most = max(FIRST_STEP_BYTES, now.meminfo.mem_total_bytes // STEP_DIVISOR)
    return replace(counted, step_bytes=min(most, state.step_bytes * 2), period_s=PERIOD_S)
