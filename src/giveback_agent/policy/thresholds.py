"""What a pass could gain, and how much makes it worth its cost. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import KernelCapabilities, Snapshot
    from giveback_kernel.meminfo import MemInfo

MIB = 1 << 20
# A step that frees less than this costs more than it returns.
LEAST_STEP_BYTES = 16 * MIB
# The same of a whole pass, as a part of RAM, where that is more.
LEAST_PASS_PERCENT = 1
# More than this part of the cache dirty, and reclaim waits: it would only move dirty pages to the kept.
DIRTY_DIVISOR = 8
# A step that disturbs more must free this many times more bytes to be worth it.
MUCH_TIMES_LEAST = 4


def least_bytes(memory: MemInfo) -> int:
    """Return what a pass must gain to be worth its cost."""
    return max(LEAST_STEP_BYTES, memory.mem_total_bytes * LEAST_PASS_PERCENT // 100)


def much_bytes(memory: MemInfo) -> int:
    """Return what a step must gain where a gentler one comes after it."""
    return MUCH_TIMES_LEAST * least_bytes(memory)


def stuck_bytes(now: Snapshot, can: KernelCapabilities) -> int:
    """Return what is free and not reported: trapped in small blocks, or on lists that can be emptied."""
    return (now.trapped_bytes or 0) + _on_lists_bytes(now, can)


def newly_stuck_bytes(now: Snapshot, last: Snapshot, can: KernelCapabilities) -> int:
    """Return what is stuck since `last`, a pass's end.

    What was trapped then is reported. What a list has taken of it since, and a program has used, is not:
    the one's growth is not made up for by the other's loss. Nor is what was in use then and is free now,
    whatever it has merged with, as far as it is stuck.
    """
    trapped = (now.trapped_bytes or 0) - (last.trapped_bytes or 0)
    lists = _on_lists_bytes(now, can) - _on_lists_bytes(last, can)
    freed = _free_bytes(now) - _free_bytes(last)
    return max(max(0, trapped) + max(0, lists), min(freed, stuck_bytes(now, can)))


def _free_bytes(now: Snapshot) -> int:
    return now.meminfo.mem_free_bytes + (now.pcp_bytes or 0)


def _on_lists_bytes(now: Snapshot, can: KernelCapabilities) -> int:
    return now.pcp_bytes or 0 if can.drain else 0


def is_largely_dirty(memory: MemInfo, cache_bytes: int) -> bool:
    """Tell whether much of so much cache may be dirty: all that is dirty may be among it."""
    return (memory.dirty_bytes + memory.writeback_bytes) * DIRTY_DIVISOR > cache_bytes
