"""How many bytes a pass could return, and how many make it worth its cost. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import KernelCapabilities, Snapshot
    from giveback_kernel.meminfo import MemInfo

MIB = 1 << 20
# A step that frees less than this costs more than it returns.
LEAST_STEP_BYTES = 16 * MIB
# The same for a whole pass, as a percentage of RAM; the larger of both counts.
LEAST_PASS_PERCENT = 1
# Reclaim waits if more than 1/8 of the cache is dirty: it would only move dirty pages to the active list.
DIRTY_DIVISOR = 8
# A step that disturbs more must free this many times more bytes to be worth it.
MUCH_TIMES_LEAST = 4


def least_bytes(memory: MemInfo) -> int:
    """Return the bytes that a pass must return to be worth its cost."""
    return max(LEAST_STEP_BYTES, memory.mem_total_bytes * LEAST_PASS_PERCENT // 100)


def much_bytes(memory: MemInfo) -> int:
    """Return the bytes that a step must free if a step that disturbs less comes after it."""
    return MUCH_TIMES_LEAST * least_bytes(memory)


def stuck_bytes(now: Snapshot, can: KernelCapabilities) -> int:
    """Return the free bytes that are not reported: trapped, or on per-CPU lists that can be drained."""
    return (now.trapped_bytes or 0) + _on_lists_bytes(now, can)


def newly_stuck_bytes(now: Snapshot, last: Snapshot, can: KernelCapabilities) -> int:
    """Return the bytes that became stuck (see `stuck_bytes`) since `last`, the end of a pass.

    Memory that was trapped at `last` has been reported since. Growth of the per-CPU lists and growth of
    the trapped memory are added: a decrease of one does not offset an increase of the other. Memory
    that was in use at `last` and is free now counts too, up to what is stuck now: it may have merged
    with blocks that were trapped before.
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
    """Tell whether a large part of `cache_bytes` may be dirty; all dirty pages may be among them."""
    return (memory.dirty_bytes + memory.writeback_bytes) * DIRTY_DIVISOR > cache_bytes
