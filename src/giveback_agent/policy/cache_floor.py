"""The cache floor that learns: pages read back after they were taken raise it, long quiet lowers it.

A refault (mm/workingset.c) is the kernel's own evidence that a page was taken too early. Pure.
"""

from __future__ import annotations

from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot

MIB = 1 << 20
# Fewer refaults than this between two looks are the ordinary noise of a working guest.
NOISE_BYTES = 4 * MIB
RAISE_BYTES = 64 * MIB
DECAY_S = 600.0
# However much comes back: half of the guest's RAM at most is kept on suspicion.
MOST_DIVISOR = 2


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
