"""What a worker does for each action: kernel writes, in pieces small enough to stop between."""

from __future__ import annotations

import os

from giveback_agent.policy import actions as act
from giveback_agent.release import percpu_lists
from giveback_agent.runtime import child
from giveback_kernel import compaction, files, reclaim, swaps
from giveback_kernel.errors import GivebackError, KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.policy.actions import Action
    from giveback_agent.settings.table import Settings

CHUNK_BYTES = 32 << 20
NUDGE_TIMEOUT_S = 10.0
DEADLINES_S = {
    act.SYNC: 20.0,
    act.SLAB: 20.0,
    act.COLD: 30.0,
    act.RECLAIM: 20.0,
    act.DROP: 20.0,
    act.COMPACT: 40.0,
}
# Folders on a disk where a scratch file may be made: systemd's own for the service, then its usual place.
SCRATCH_FOLDERS = ("/var/lib/giveback", "/var/tmp", "/var/lib")


def step_of(action: Action, root: str, settings: Settings) -> Callable[[], None]:
    """Return the function that does `action`; it blocks and may raise KernelFileError or OSError."""
    if action.kind == act.SYNC:
        return os.sync
    if action.kind == act.SLAB:
        return lambda: reclaim.drop_caches(root, reclaim.DROP_SLAB)
    if action.kind == act.DROP:
        return lambda: reclaim.drop_caches(root, action.what)
    if action.kind == act.COLD:
        return lambda: take_cold(root, action.amount_bytes, action.what, settings.swap)
    if action.kind == act.RECLAIM:
        return lambda: reclaim_in_chunks(
            root, action.amount_bytes, settings.swap, bool(action.what)
        )
    if action.kind == act.COMPACT:
        return lambda: compact(root, action.nodes)
    raise ValueError(f"no worker step for {action.kind!r}")


def take_cold(root: str, amount_bytes: int, what: int, swap: bool) -> None:
    """Take cold cache by the best method there is now; what is warm stays. `what`: as in Action."""
    from giveback_agent.release import cold_cache

    method = cold_cache.probe(root)
    folder = scratch_folder(root, os.environ.get("STATE_DIRECTORY"))
    untaught = what == act.UNTAUGHT
    stale_after_s = 0.0 if what == act.REOPEN else cold_cache.STALE_AFTER_S
    may_swap = swap or not _has_swap(root)
    cold_cache.reclaim_cold(
        root,
        method,
        amount_bytes,
        folder,
        untaught=untaught,
        stale_after_s=stale_after_s,
        may_swap=may_swap,
    )


def scratch_folder(root: str, state_directory: str | None) -> str | None:
    """Find a folder that can be written and is on a disk; None where there is none."""
    candidates = [state_directory] if state_directory else []
    candidates += [files.under(root, path) for path in SCRATCH_FOLDERS]
    for path in candidates:
        if os.access(path, os.W_OK) and not is_in_memory(root, path):
            return path
    return None


def is_in_memory(root: str, path: str) -> bool:
    """Tell whether a folder's file system is tmpfs or the like: the longest mount point decides."""
    try:
        rows = files.read(root, "/proc/self/mounts").decode("utf-8", "replace").splitlines()
    except KernelFileError:
        return True
    best, kind = "", ""
    for row in rows:
        words = row.split(" ")
        if len(words) < 3:
            continue
        point = words[1].rstrip("/") + "/"
        if (path.rstrip("/") + "/").startswith(point) and len(point) >= len(best):
            best, kind = point, words[2]
    return kind in ("", "tmpfs", "ramfs", "devtmpfs", "rootfs", "overlay")


def start_reporting(root: str) -> str:
    """Make the kernel start a pass of reporting; returns why not, or "" where it does.

    In a child, though it takes a millisecond: what it imports is gone with it.
    """

    def ask() -> bytes:
        from giveback_agent.release import trigger_reporting

        try:
            return trigger_reporting.nudge(root).refused.encode()
        except (KernelFileError, OSError) as error:
            return str(error).encode()

    outcome = child.in_child(ask, NUDGE_TIMEOUT_S)
    return outcome.reason or outcome.output.decode("utf-8", "replace")


def drain_lists(root: str) -> str:
    """Empty the per-CPU lists; returns why not, or "" where it was done."""
    try:
        return percpu_lists.drain(root)
    except GivebackError as error:
        return str(error)


def compact(root: str, nodes: tuple[int, ...]) -> None:
    """Compact these NUMA nodes, or all memory where none is named or they cannot be had alone."""
    if not nodes or not all(compaction.node_is_available(root, node) for node in nodes):
        compaction.compact_all(root)
        return
    for node in nodes:
        compaction.compact_node(root, node)


def reclaim_in_chunks(root: str, amount_bytes: int, swap: bool, may_drop: bool = False) -> None:
    """Reclaim at most `amount_bytes`, from files alone unless `swap`. Stops when the kernel has no more.

    A kernel before 6.11 takes no `swappiness=` and chooses for itself. Where it could choose to swap
    programs out, and may not, the whole cache is dropped instead if it `may`: the last means.
    """
    path = reclaim.root_reclaim_path(root)
    if path is None:
        return
    may_choose = swap or not _has_swap(root)
    left = amount_bytes
    while left > 0:
        chunk = min(left, CHUNK_BYTES)
        left -= chunk
        result = reclaim.reclaim(root, path, chunk, None if swap else 0, or_without=may_choose)
        if result.outcome == reclaim.SWAPPINESS_REFUSED:
            if may_drop:
                reclaim.drop_caches(root, reclaim.DROP_PAGECACHE)
            return
        if result.outcome != reclaim.DONE:
            return


def _has_swap(root: str) -> bool:
    try:
        return bool(swaps.read_swaps(root).areas)
    except KernelFileError:
        return True
