"""Execute the steps of a release pass: writes to kernel files, in parts between which a step can stop.

`EXECUTE` has one function for each type of step in policy/actions.py.
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
CHILD_TIMEOUT_S = 10.0
# Folders on a disk for the scratch file: systemd's own for the service first.
SCRATCH_FOLDERS = ("/var/lib/giveback", "/var/tmp", "/var/lib")


def take_cold(
    root: str, amount_bytes: int, how: int, settings: AgentSettings, with_ended: bool = True
) -> None:
    """Reclaim cold cache by the best available method; warm cache stays. `how`: as in ReclaimCold."""
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
        # Ended cgroups do not read their cache again: floor and amount are for live cgroups.
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
    """Swap out anonymous memory that was not touched for a while."""
    from giveback_agent.policy.cold_anon import PERIOD_S
    from giveback_agent.release.cache import cold_anon

    # The service is not exactly on time, so a generation may be a little younger than the period.
    cold_anon.reclaim_cold_anon(root, amount_bytes, PERIOD_S * 0.9, exclude)


def ended_bytes(root: str, method: str) -> int:
    """Measure the cache of ended cgroups in bytes; 0 if it is unknown or out of reach.

    `method`: from cold_cache.probe. It runs in a child process, as the kernel's list of generations may
    be long: its memory is gone when the child ends.
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
    """Write a line to the kernel log, where users of WSL expect it; drop it if that is not possible."""

    def write() -> bytes:
        from giveback_kernel import kmsg

        kmsg.write_line(root, line)
        return b""

    child.in_child(write, CHILD_TIMEOUT_S)


def scratch_folder(root: str, state_directory: str | None) -> str | None:
    """Find a folder on a disk that can be written; None if there is none."""
    candidates = [state_directory] if state_directory else []
    candidates += [files.under(root, path) for path in SCRATCH_FOLDERS]
    for path in candidates:
        if os.access(path, os.W_OK) and not is_in_memory(root, path):
            return path
    return None


def is_in_memory(root: str, path: str) -> bool:
    """Tell whether the file system at a folder is tmpfs or similar."""
    from giveback_kernel import mounts

    try:
        mount = mounts.covering(mounts.read_mounts(root), path)
    except KernelFileError:
        return True
    kinds = ("tmpfs", "ramfs", "devtmpfs", "rootfs", "overlay")
    return mount is None or mount.fs_type in kinds


def lower_order(root: str, order: int) -> str:
    """Lower the report order; return why it failed, or ""."""
    try:
        report_order.lower(root, order)
    except GivebackError as error:
        return str(error)
    return ""


def start_reporting(root: str) -> str:
    """Make the kernel start a reporting cycle; return why it failed, or "".

    It takes a millisecond, but runs in a child process, so that its imports are gone when it ends.
    """

    def ask() -> bytes:
        from giveback_agent.release import trigger_reporting

        try:
            return trigger_reporting.trigger(root).refused.encode()
        except (KernelFileError, OSError) as error:
            return str(error).encode()

    outcome = child.in_child(ask, CHILD_TIMEOUT_S)
    return outcome.reason or outcome.output.decode("utf-8", "replace")


def drain_lists(root: str) -> str:
    """Drain the per-CPU lists; return why it failed, or ""."""
    try:
        return percpu_lists.drain(root)
    except GivebackError as error:
        return str(error)


def compact(root: str, nodes: tuple[int, ...]) -> None:
    """Compact these NUMA nodes; all memory if none is given or single nodes cannot be compacted."""
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
    """Drop all clean page cache (1), all reclaimable slab (2) or both (3).

    Raises KernelFileError, also if a cgroup is excluded whose cache would be dropped.
    """
    from giveback_kernel import reclaim

    if exclude and what != reclaim.DROP_SLAB:
        path = files.under(root, reclaim.DROP_CACHES_PATH)
        raise KernelFileError(path, "not used: giveback.exclude is set, and this drops all cache")
    reclaim.drop_caches(root, what)


def reclaim_in_chunks(
    root: str,
    amount_bytes: int,
    swap: bool,
    may_drop: bool = False,
    exclude: tuple[str, ...] = (),
) -> None:
    """Reclaim at most `amount_bytes`, only of files unless `swap`. Stops when the kernel finds no more.

    On a kernel without memory.reclaim, memory.high is used if there is no swap or `swap` allows its use.
    A kernel before 6.11 takes no `swappiness=`. If it could swap programs out although `swap` is False,
    the whole cache is dropped instead if `may_drop`, else nothing is done. With `exclude`, each
    remaining cgroup is reclaimed from separately.
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
    """Return the memory.reclaim files to write: the root's, or with `exclude` those of all other leaves."""
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
    """Execute `step`; return why it was refused, or "" if it was done.

    A WorkerStep blocks and raises KernelFileError or OSError if it fails. The others never raise.
    """
    return EXECUTE[type(step)](step, root, settings) or ""
