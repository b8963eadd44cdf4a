"""Reclaim cold page cache on a kernel without `memory.reclaim`: lower a cgroup's memory.high for a moment.

Writing a memory.high below the usage of a cgroup reclaims the difference before the write returns
(memory_high_write() in mm/memcontrol.c). The original value is restored at once. A step must avoid three
kinds of harm:

- *Slowing the cgroup's own processes.* A task that charges memory meanwhile sleeps in proportion to the
  square of the excess: 64 s * (excess / high)^2 for each 32 pages, and not at all below 10 ms
  (calculate_high_delay(), same file). So a step is at most 1/128 of the usage: 4 ms, which is below 10 ms.
- *Taking the working set.* The kernel refills the inactive list from the active one if that is longer. A
  step ends before that, as in cold_cache.py. A cgroup is left alone if its pages refault or its active list
  shrinks. Memory protected by memory.min or memory.low stays.
- *Swapping.* This kernel has no option against it. The caller uses this method only without swap, or if
  swap may be used.

The cache of ended cgroups below a live one is reached by lowering the live one's memory.high, while
memory.low protects the live leaves (live_protection.py). The root cgroup has no memory.high: its own pages,
and those of ended cgroups directly below it, are out of reach.
"""

from __future__ import annotations

import math
import os
import time

from giveback_agent.cgroups.exclusion import is_excluded, kept
from giveback_agent.release.cache import live_protection
from giveback_agent.runtime import memory_limits
from giveback_agent.runtime.memory_limits import HIGH
from giveback_agent.runtime.saved_value import Changed
from giveback_kernel import cgroup, cgroup_stat, compaction, files, memcg
from giveback_kernel.cgroup_stat import CgroupStat
from giveback_kernel.errors import GivebackError, KernelFileError
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_kernel.memcg import FileLists

MIB = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STEP_DIVISOR = 128
STEP_LEAST_BYTES = 256 << 10
STEP_MOST_BYTES = 16 * MIB
# A smaller reclaimable rest of a list is not worth the calls.
REST_BYTES = 2 * MIB
# A step that freed less than 1/4 of its amount (memory.min, dirty pages) is the last in that cgroup.
POOR_DIVISOR = 4
# A cgroup with more refaults than this during the steps needs its cache.
REFAULTS_LIMIT = 64
# One cgroup must not use the time of all others, and the run must end before its worker is killed.
CGROUP_S = 8.0
RUN_S = 20.0
# A step of plain reclaim is killed after 20 s.
WARM_RUN_S = 15.0
STEPS_LIMIT = 8192
# Less cache of ended cgroups than this is within the error of the sums.
ENDED_LEAST_BYTES = 4 * MIB


class HighResult(Record):
    """The result of a run: bytes asked for, steps made, and why it was cut short ("" if it was not)."""

    asked_bytes: int = 0
    steps: int = 0
    refused: str = ""


class Ended(Record):
    """A live cgroup below which others have ended: its folder, and the bytes that they left.

    `is_empty`: it has no process itself, so that no process is slowed.
    """

    folder: str
    ended_bytes: int
    is_empty: bool = False


def cgroups(root: str, exclude: tuple[str, ...] = ()) -> tuple[str, ...]:
    """List the leaf cgroups whose memory.high may be written, without those that match `exclude`."""
    mount = cgroup.find_v2_mount(root)
    if mount is None:
        return ()
    return tuple(
        [
            folder
            for folder in kept(memcg.leaves(root, mount), mount, exclude)
            if folder != mount and os.access(files.under(root, _high(folder)), os.R_OK | os.W_OK)
        ]
    )


def cold_bytes(lists: FileLists, nodes: int = 1) -> int:
    """Return the bytes that may be reclaimed from a cgroup without touching its active list."""
    clean = lists.inactive_bytes - lists.dirty_bytes - lists.writeback_bytes
    return max(0, min(clean, lists.inactive_bytes - kept_bytes(lists.active_bytes, nodes)))


def kept_bytes(active_bytes: int, nodes: int) -> int:
    """Return the least length of the inactive list, in bytes, at which the kernel does not refill it.

    For lists below 1 GiB on each NUMA node that is the length of the active list; for longer ones it is
    a smaller part of it. Source: inactive_is_low() in mm/vmscan.c, with the lengths after the reclaim.
    """
    ratio = math.isqrt(10 * (2 * active_bytes // nodes >> 30)) or 1
    while ratio > 1:
        kept = -(-active_bytes // ratio)
        if math.isqrt(10 * ((active_bytes + kept) // nodes >> 30)) >= ratio:
            return kept
        ratio -= 1
    return active_bytes


def step_bytes(wanted_bytes: int, held_bytes: int, is_empty: bool = False) -> int:
    """Return the bytes of the next step towards `wanted_bytes` in a cgroup of `held_bytes`; whole pages."""
    harmless = STEP_MOST_BYTES if is_empty else held_bytes // STEP_DIVISOR
    most = max(STEP_LEAST_BYTES, min(STEP_MOST_BYTES, harmless))
    return max(0, min(wanted_bytes, most, held_bytes - PAGE_BYTES)) // PAGE_BYTES * PAGE_BYTES


def reclaim_cold(
    root: str,
    max_bytes: int,
    wanted: Callable[[], bool] = lambda: True,
    exclude: tuple[str, ...] = (),
) -> HighResult:
    """Reclaim at most about `max_bytes` of cold cache, from the largest lists first. Never raises.

    `exclude`: patterns of cgroups to leave alone. `wanted` is called before each step; False ends the
    run. Dirty pages cannot be reclaimed: sync first.
    """
    job = _Steps(root, max_bytes, wanted)
    nodes = max(1, len(compaction.nodes(root)))
    cold = {folder: cold_bytes(_lists(root, folder), nodes) for folder in cgroups(root, exclude)}
    try:
        memory_limits.restore(root)
        for folder in sorted(cold, key=lambda folder: -cold[folder]):
            if cold[folder] > REST_BYTES:
                job.take_cold(folder, nodes)
    except GivebackError as error:
        return HighResult(job.asked_bytes, job.steps, str(error))
    return HighResult(job.asked_bytes, job.steps)


def reclaim_warm(root: str, max_bytes: int, exclude: tuple[str, ...] = ()) -> HighResult:
    """Reclaim about `max_bytes` of cache, warm cache too, from the largest lists first. Never raises.

    Only for a host in need: cache in use is reclaimed as well. `exclude`: patterns of cgroups to leave
    alone.
    """
    job = _Steps(root, max_bytes, lambda: True, WARM_RUN_S)
    clean = {folder: _clean_bytes(_lists(root, folder)) for folder in cgroups(root, exclude)}
    try:
        memory_limits.restore(root)
        for folder in sorted(clean, key=lambda folder: -clean[folder]):
            if clean[folder] > REST_BYTES:
                job.take_warm(folder)
    except GivebackError as error:
        return HighResult(job.asked_bytes, job.steps, str(error))
    return HighResult(job.asked_bytes, job.steps)


def _clean_bytes(lists: FileLists) -> int:
    return max(0, lists.file_bytes - lists.dirty_bytes - lists.writeback_bytes)


def find_ended(root: str, exclude: tuple[str, ...] = ()) -> tuple[Ended, ...]:
    """Find the live cgroups below which ended ones left enough cache, the largest amount first.

    A leaf without a process (a slice that has lost its last service) counts as ended: no process uses
    its cache. Returns none if there are more cgroups than memcg.CGROUPS_LIMIT, as the sums would then
    miss live ones.
    """
    mount = cgroup.find_v2_mount(root)
    if mount is None or _stat(root, mount).descendants > memcg.CGROUPS_LIMIT:
        return ()
    found: list[Ended] = []
    tops: set[str] = set()
    for leaf in memcg.leaves(root, mount):
        top = mount + "/" + leaf[len(mount) + 1 :].partition("/")[0]
        if leaf not in (mount, top):
            tops.add(top)
        if is_excluded(leaf[len(mount) :], exclude):
            continue
        if leaf != mount and _is_empty(root, leaf):
            found.append(Ended(leaf, memcg.file_bytes_of(root, leaf), is_empty=True))
    # A cgroup may have pages of its own, from before it had children.
    dying = [top for top in tops if _stat(root, top).dying_descendants]
    found += [Ended(top, _left_below(root, top)) for top in dying]
    found = [one for one in found if one.ended_bytes >= ENDED_LEAST_BYTES]
    return tuple(sorted(found, key=lambda one: -one.ended_bytes))


def _left_below(root: str, folder: str) -> int:
    """Return the bytes of a cgroup's file cache that belong to no live leaf (memory.stat is recursive)."""
    leaves = [leaf for leaf in memcg.leaves(root, folder) if leaf != folder]
    return memcg.file_bytes_of(root, folder) - sum(
        [memcg.file_bytes_of(root, leaf) for leaf in leaves]
    )


def reclaim_ended(
    root: str,
    max_bytes: int,
    wanted: Callable[[], bool] = lambda: True,
    exclude: tuple[str, ...] = (),
) -> HighResult:
    """Reclaim at most about `max_bytes` of the cache that ended cgroups left below live ones.

    Never raises. `exclude`: patterns of live cgroups to leave alone even if they have no process.
    """
    job = _Steps(root, max_bytes, wanted)
    ended = find_ended(root, exclude)
    mount = cgroup.find_v2_mount(root)
    if mount is None or not ended:
        return HighResult()
    refused = ""
    try:
        memory_limits.restore(root)
        live_protection.protect(root, mount)
        for one in ended:
            job.take_ended(one)
    except GivebackError as error:
        refused = str(error)
    finally:
        try:
            live_protection.restore(root)
        except KernelFileError as error:
            # The record stays: the parent of this worker restores from it.
            refused = str(error)
    return HighResult(job.asked_bytes, job.steps, refused)


class _Steps:
    """The steps of one run. A step raises GivebackError if a limit could not be restored."""

    def __init__(
        self, root: str, max_bytes: int, wanted: Callable[[], bool], run_s: float | None = None
    ) -> None:
        self._root = root
        self._mount = cgroup.find_v2_mount(root) or ""
        self._left_bytes = max_bytes
        self._wanted = wanted
        self._until_s = time.monotonic() + (RUN_S if run_s is None else run_s)
        self.asked_bytes = self.steps = 0

    def take_cold(self, folder: str, nodes: int) -> None:
        until_s = min(self._until_s, time.monotonic() + CGROUP_S)
        first = last = _lists(self._root, folder)
        while time.monotonic() < until_s:
            is_hurt = last.refault_pages - first.refault_pages > REFAULTS_LIMIT
            if is_hurt or last.active_bytes + REST_BYTES < first.active_bytes:
                return
            unprotected = memcg.unprotected_bytes(self._root, self._mount, folder)
            cold = min(cold_bytes(last, nodes), unprotected)
            # Half of it: a step reclaims up to 1.7 times its amount, which must not reach the active list.
            if cold <= REST_BYTES or not self._step(folder, (cold + 1) // 2, is_empty=False):
                return
            last = _lists(self._root, folder)

    def take_warm(self, folder: str) -> None:
        until_s = min(self._until_s, time.monotonic() + CGROUP_S)
        while time.monotonic() < until_s:
            clean = _clean_bytes(_lists(self._root, folder))
            clean = min(clean, memcg.unprotected_bytes(self._root, self._mount, folder))
            if clean <= REST_BYTES or not self._step(folder, clean, is_empty=False):
                return

    def take_ended(self, one: Ended) -> None:
        until_s = min(self._until_s, time.monotonic() + CGROUP_S)
        left = one.ended_bytes
        while left >= ENDED_LEAST_BYTES and time.monotonic() < until_s:
            if not self._step(one.folder, left, one.is_empty):
                return
            after = _left_below(self._root, one.folder)
            if after >= left:
                # The step reclaimed only cache of live cgroups.
                return
            left = after

    def _step(self, folder: str, amount_bytes: int, is_empty: bool) -> bool:
        """Take one step; return whether another one in this cgroup is worth it."""
        held = _held_bytes(self._root, folder)
        amount = step_bytes(min(amount_bytes, self._left_bytes), held, is_empty)
        if amount <= 0 or self.steps >= STEPS_LIMIT or not self._wanted():
            return False
        if not _lower_for_a_moment(self._root, folder, held - amount):
            return False
        self.steps += 1
        self.asked_bytes += amount
        # The kernel reclaims up to 1.8 times the amount: the actual decrease counts.
        freed = held - _held_bytes(self._root, folder)
        self._left_bytes -= max(amount, freed)
        return freed >= amount // POOR_DIVISOR


def _lower_for_a_moment(root: str, folder: str, to_bytes: int) -> bool:
    """Set memory.high, which reclaims, and restore it; return whether it was set.

    A cgroup whose own limit is already that low is left alone.
    """
    ours = to_bytes // PAGE_BYTES * PAGE_BYTES
    original = HIGH.read(root, _high(folder))
    if original is None or ours <= 0 or (original != "max" and int(original) <= ours):
        return False
    try:
        return HIGH.change(root, (Changed(original, str(ours), _high(folder)),)) > 0
    finally:
        HIGH.restore(root)


def _high(folder: str) -> str:
    return f"{folder}/memory.high"


def _held_bytes(root: str, folder: str) -> int:
    """Return the memory usage of a cgroup in bytes; 0 if it has vanished."""
    try:
        token = files.read(root, f"{folder}/memory.current", 64).strip()
    except KernelFileError:
        return 0
    return int(token) if token.isdigit() and len(token) <= 20 else 0


def _lists(root: str, folder: str) -> FileLists:
    try:
        return memcg.read_file_lists(root, folder)
    except KernelFileError:
        # It has vanished: nothing is left to reclaim.
        return memcg.FileLists(0, 0)


def _stat(root: str, folder: str) -> CgroupStat:
    path = f"{folder}/{cgroup_stat.STAT}"
    try:
        return cgroup_stat.parse(files.read(root, path), path)
    except KernelFileError:
        return CgroupStat(0, 0)


def _is_empty(root: str, folder: str) -> bool:
    try:
        return b"populated 0\n" in files.read(root, f"{folder}/cgroup.events", 4096)
    except KernelFileError:
        return False
