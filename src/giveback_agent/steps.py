"""What a worker does for each action: kernel writes, in pieces small enough to stop between."""

from __future__ import annotations

import os

from giveback_agent import actions as act
from giveback_agent.kernel import compaction, reclaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.actions import Action
    from giveback_agent.settings import Settings

CHUNK_BYTES = 32 << 20
DEADLINES_S = {
    act.SYNC: 20.0,
    act.SLAB: 20.0,
    act.RECLAIM: 20.0,
    act.DROP: 20.0,
    act.COMPACT: 40.0,
    act.NUDGE: 10.0,
}


def step_of(action: Action, root: str, settings: Settings) -> Callable[[], None]:
    """Return the function that does `action`; it blocks and may raise KernelFileError or OSError."""
    if action.kind == act.SYNC:
        return os.sync
    if action.kind == act.SLAB:
        return lambda: reclaim.drop_caches(root, reclaim.DROP_SLAB)
    if action.kind == act.DROP:
        return lambda: reclaim.drop_caches(root, action.what)
    if action.kind == act.RECLAIM:
        return lambda: reclaim_in_chunks(root, action.amount_bytes, settings.swap)
    if action.kind == act.COMPACT:
        return lambda: compaction.compact_all(root)
    if action.kind == act.NUDGE:
        return nudge
    raise ValueError(f"no worker step for {action.kind!r}")


def reclaim_in_chunks(root: str, amount_bytes: int, swap: bool) -> None:
    """Reclaim at most `amount_bytes`, from files alone unless `swap`. Stops when the kernel has no more."""
    path = reclaim.root_reclaim_path(root)
    if path is None:
        return
    left = amount_bytes
    while left > 0:
        chunk = min(left, CHUNK_BYTES)
        left -= chunk
        result = reclaim.reclaim(root, path, chunk, None if swap else 0, or_without=True)
        if result.outcome != reclaim.DONE:
            return


def nudge() -> None:
    """Touch and free small pages, enough to overflow the per-CPU lists: a pass of reporting starts."""
    import mmap

    memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for start in range(0, len(memory), 4096):
        memory[start] = 1
    memory.close()
