"""How each step of a release pass is executed: kernel writes, in pieces small enough to stop between.

`EXECUTE` holds one function for each type of step in policy/actions.py.
"""

from __future__ import annotations

import os

from giveback_agent.policy import actions as act
from giveback_agent.policy.observation import GENERATIONS, LIMITS, NO_METHOD
from giveback_agent.release import percpu_lists, report_order
from giveback_agent.runtime import child
from giveback_kernel import files
from giveback_kernel.errors import GivebackError, KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from giveback_agent.policy.actions import ReleaseStep
    from giveback_agent.settings.table import AgentSettings

    Execute = Callable[[Any, str, AgentSettings], "str | None"]

CHUNK_BYTES = 32 << 20
ENDED_MOST_BYTES = 1 << 50
ENDED_TIMEOUT_S = 10.0
NUDGE_TIMEOUT_S = 10.0
# Folders on a disk where a scratch file may be made: systemd's own for the service, then its usual place.
SCRATCH_FOLDERS = ("/var/lib/giveback", "/var/tmp", "/var/lib")


def take_cold(
    root: str, amount_bytes: int, how: int, settings: AgentSettings, with_ended: bool = True
) -> None:
    """Reclaim cold cache by the best method there is now; warm cache stays. `how`: as in ReclaimCold."""
    from giveback_agent.release.cache import cold_cache, eviction_plan
    from giveback_kernel import swaps

    method = cold_cache.probe(root, settings.swap)
    folder = scratch_folder(root, os.environ.get("STATE_DIRECTORY"))
    untrained = how == act.UNTRAINED
    stale_after_s = 0.0 if how == act.REOPEN else eviction_plan.STALE_AFTER_S
    may_swap = settings.swap or not swaps.may_swap(root)
    result = cold_cache.reclaim_cold(
        root,
        method,
        amount_bytes,
        folder,
        untrained=untrained,
        stale_after_s=stale_after_s,
        may_swap=may_swap,
        exclude=settings.exclude,
    )
    if with_ended and not result.untrained_bytes:
        # Nobody reads it again from where it was: the floor and the amount are for live cgroups.
        _take_ended(root, method, settings.exclude)


def take_ended(root: str, settings: AgentSettings) -> None:
    """Reclaim the cache of ended cgroups."""
    from giveback_agent.release.cache import cold_cache

    _take_ended(root, cold_cache.probe(root, settings.swap), settings.exclude)


def _take_ended(root: str, method: str, exclude: tuple[str, ...]) -> None:
    from giveback_agent.release.cache import ended_cgroups, memory_high

    if method == LIMITS:
        memory_high.reclaim_ended(root, ENDED_MOST_BYTES, exclude=exclude)
        return
    folder = scratch_folder(root, os.environ.get("STATE_DIRECTORY"))
    generations = method == GENERATIONS
    ended_cgroups.reclaim_ended(root, generations, ENDED_MOST_BYTES, folder, exclude=exclude)


def take_cold_anon(root: str, amount_bytes: int, exclude: tuple[str, ...]) -> None:
    """Swap anonymous memory out that nobody has touched for a while."""
    from giveback_agent.policy.cold_anon import PERIOD_S
    from giveback_agent.release.cache import cold_anon

    # The service's own clock is a little late or early: a generation may be that much younger.
    cold_anon.reclaim_cold_anon(root, amount_bytes, PERIOD_S * 0.9, exclude)


def ended_bytes(root: str, method: str) -> int:
    """Measure the cache of ended cgroups, in bytes; 0 where it cannot be told, or not be reached.

    `method`: how this kernel's cold cache is taken (cold_cache.probe). In a child, as the kernel's list of
    generations may be long: what it takes is gone with it.
    """

    def ask() -> bytes:
        from giveback_agent.release.cache import ended_cgroups, memory_high

        if method == LIMITS:
            return str(sum([one.ended_bytes for one in memory_high.find_ended(root)])).encode()
        shares = ended_cgroups.read_shares(root, method == GENERATIONS)
        return str(shares.ended_bytes if shares else 0).encode()

    if method == NO_METHOD:
        return 0
    output = child.in_child(ask, ENDED_TIMEOUT_S).output
    return int(output) if output.isdigit() and len(output) < 20 else 0


def write_kernel_log(root: str, line: str) -> None:
    """Write a line to the kernel log, where users of WSL look for it; lost where that is not possible."""

    def write() -> bytes:
        from giveback_kernel import kmsg

        kmsg.write_line(root, line)
        return b""

    child.in_child(write, NUDGE_TIMEOUT_S)


def scratch_folder(root: str, state_directory: str | None) -> str | None:
    """Find a folder that can be written and is on a disk; None where there is none."""
    candidates = [state_directory] if state_directory else []
    candidates += [files.under(root, path) for path in SCRATCH_FOLDERS]
    for path in candidates:
        if os.access(path, os.W_OK) and not is_in_memory(root, path):
            return path
    return None


def is_in_memory(root: str, path: str) -> bool:
    """Tell whether the file system that is seen at a folder is tmpfs or the like."""
    from giveback_kernel import mounts

    try:
        mount = mounts.covering(mounts.read_mounts(root), path)
    except KernelFileError:
        return True
    kinds = ("tmpfs", "ramfs", "devtmpfs", "rootfs", "overlay")
    return mount is None or mount.fs_type in kinds


def lower_order(root: str, order: int) -> str:
    """Lower the report order; returns why not, or "" where it was done."""
    try:
        report_order.lower(root, order)
    except GivebackError as error:
        return str(error)
    return ""


def start_reporting(root: str) -> str:
    """Make the kernel start a pass of reporting; returns why not, or "" where it does.

    In a child, though it takes a millisecond: what it imports is gone with it.
    """

    def ask() -> bytes:
        from giveback_agent.release import trigger_reporting

        try:
            return trigger_reporting.trigger(root).refused.encode()
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
    from giveback_kernel import compaction

    if not nodes or not all(compaction.node_is_available(root, node) for node in nodes):
        compaction.compact_all(root)
        return
    for node in nodes:
        compaction.compact_node(root, node)


def drop_slab(root: str) -> None:
    """Drop all reclaimable slab. Raises KernelFileError."""
    from giveback_kernel import reclaim

    reclaim.drop_caches(root, reclaim.DROP_SLAB)


def drop_caches(root: str, what: int, exclude: tuple[str, ...] = ()) -> None:
    """Drop all clean page cache (1), all reclaimable slab (2) or both (3). Raises KernelFileError.

    So it does where a cgroup is excluded, whose cache would go, too.
    """
    from giveback_kernel import reclaim

    if exclude and what != reclaim.DROP_SLAB:
        path = files.under(root, reclaim.DROP_CACHES_PATH)
        raise KernelFileError(path, "giveback.exclude is set, and all cache would be dropped")
    reclaim.drop_caches(root, what)


def reclaim_in_chunks(
    root: str,
    amount_bytes: int,
    swap: bool,
    may_drop: bool = False,
    exclude: tuple[str, ...] = (),
) -> None:
    """Reclaim at most `amount_bytes`, from files alone unless `swap`. Stops when the kernel has no more.

    A kernel without memory.reclaim is asked by memory.high, where it may not swap or is allowed to.
    A kernel before 6.11 takes no `swappiness=` and chooses for itself. Where it could choose to swap
    programs out, and may not, the whole cache is dropped instead if it `may`: the last means.
    Where a cgroup is excluded each other one is asked by itself.
    """
    from giveback_kernel import reclaim, swaps

    may_choose = swap or not swaps.may_swap(root)
    if reclaim.root_reclaim_path(root) is None and may_choose:
        from giveback_agent.release.cache import memory_high

        memory_high.reclaim_warm(root, amount_bytes, exclude)
        return
    left = amount_bytes
    for path in _reclaim_paths(root, exclude):
        while left > 0:
            chunk = min(left, CHUNK_BYTES)
            result = reclaim.reclaim(root, path, chunk, None if swap else 0, or_without=may_choose)
            if result.outcome == reclaim.SWAPPINESS_REFUSED:
                if may_drop:
                    reclaim.drop_caches(root, reclaim.DROP_PAGECACHE)
                return
            if result.outcome != reclaim.DONE:
                break
            left -= chunk


def _reclaim_paths(root: str, exclude: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files to ask for reclaim: the root's alone, or those of all leaves that are not excluded."""
    from giveback_agent.release.cache import cold_cache
    from giveback_kernel import reclaim

    top = reclaim.root_reclaim_path(root)
    if top is None:
        return ()
    if not exclude:
        return (top,)
    folders = cold_cache.reclaimable_cgroups(root, exclude)
    return tuple([f"{folder}/memory.reclaim" for folder in folders])


EXECUTE: dict[type[ReleaseStep], Execute] = {
    act.Sync: lambda _step, _root, _: os.sync(),
    act.ReclaimSlab: lambda _step, root, _: drop_slab(root),
    act.ReclaimCold: lambda step, root, s: take_cold(
        root, step.amount_bytes, step.how, s, step.with_ended
    ),
    act.ReclaimEnded: lambda _step, root, s: take_ended(root, s),
    act.ReclaimColdAnon: lambda step, root, s: take_cold_anon(root, step.amount_bytes, s.exclude),
    act.Reclaim: lambda step, root, s: reclaim_in_chunks(
        root, step.amount_bytes, s.swap, step.may_drop, s.exclude
    ),
    act.DropCaches: lambda step, root, s: drop_caches(root, step.what, s.exclude),
    act.Compact: lambda step, root, _: compact(root, step.nodes),
    act.DrainLists: lambda _step, root, _: drain_lists(root),
    act.LowerOrder: lambda step, root, _: lower_order(root, step.order),
    act.TriggerReporting: lambda _step, root, _: start_reporting(root),
}


def execute(step: ReleaseStep, root: str, settings: AgentSettings) -> str:
    """Do `step`; returns why it was refused, or "" where it was done.

    A WorkerStep blocks, and raises KernelFileError or OSError where it fails; the others never raise.
    """
    return EXECUTE[type(step)](step, root, settings) or ""
