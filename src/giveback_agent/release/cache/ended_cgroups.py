"""Reclaim the page cache of ended cgroups: containers, services, sessions.

Before Linux 7.0 the pages of a removed cgroup stay charged to it. Requests to lru_gen cannot name it, as its
id is freed when it ends, and `memory.reclaim` of a live leaf does not reach it. Only reclaim from the root
does, which would also reclaim from live cgroups. These are protected as follows (measured in
docs/ended-cgroups.md):

- The multi-gen LRU lists an ended cgroup with the id 0 and its pages. If it ended below a live cgroup, that
  one is asked to reclaim, with `memory.low` of all live leaves raised: they lose nothing. Cgroups that ended
  directly below the root are reclaimed afterwards, from the root. Protection has no effect there, so live
  cgroups are trained first (lru_gen_training.py). Some of the pages that were read once are lost: 14 of
  40 MiB while 320 MiB of an ended cgroup were reclaimed.
- Two lists: `memory.low` protects the live cgroups meanwhile (live_protection.py). The amount that ended
  cgroups hold is a difference: all file pages, minus those of live leaves, minus the root's own. No kernel
  file has the last; the least difference ever seen stands for it.

No more is requested than the ended cgroups hold, and no step follows one that reclaimed from live cgroups.
"""

from __future__ import annotations

import os

from giveback_agent.cgroups.exclusion import is_excluded
from giveback_agent.release.cache import live_protection, lru_gen_training
from giveback_agent.runtime import run_dir
from giveback_kernel import cgroup, cgroup_namespace, files, lru_gen_scan, memcg, reclaim
from giveback_kernel.errors import GivebackError, KernelFileError
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_kernel.cgroup import CgroupMounts
    from giveback_kernel.lru_gen import NodeGenerations

MIB = 1 << 20
# One write. Fewer writes take less from live cgroups.
STEP_BYTES = 128 * MIB
# Live cgroups with less cache than this are not worth a scratch file; the largest are trained.
TRAINED_LEAST_BYTES = 2 * MIB
TRAINED_LISTS = 32
# A smaller amount is within the error of the sums.
LEAST_BYTES = 4 * MIB
STEPS_LIMIT = 512
# A step is the last if live cgroups lost more than 1/4 of its amount,
LOSS_DIVISOR = 4
# or if ended ones lost less than 1/4 of it.
POOR_DIVISOR = 4
# The least cache outside of live leaves since boot: taken as the root cgroup's own.
ROOT_OWN_PATH = run_dir.FOLDER + "/root-cache"


class CacheShares(Record):
    """File cache in bytes: of ended cgroups, and of live ones including the root's own."""

    ended_bytes: int
    live_bytes: int


class EndedResult(Record):
    """The result: cache of ended cgroups before and after, bytes asked for, number of writes."""

    before_bytes: int = 0
    after_bytes: int = 0
    asked_bytes: int = 0
    steps: int = 0
    refused: str = ""


class Taken(Record):
    """The result of some steps: the cache after the last of them, bytes asked for, number of writes."""

    now: CacheShares
    asked_bytes: int = 0
    steps: int = 0
    refused: str = ""

    def since(self, before: CacheShares) -> EndedResult:
        """Return the result of these steps, which began at `before`."""
        left_bytes = self.now.ended_bytes
        return EndedResult(
            before.ended_bytes, left_bytes, self.asked_bytes, self.steps, self.refused
        )


def read_shares(root: str, generations: bool, node: int | None = None) -> CacheShares | None:
    """Measure the file cache of ended cgroups and of live ones; None if they cannot be distinguished.

    `generations`: the multi-gen LRU is in use and its file may be read. `node`: count the cache of ended
    cgroups on that NUMA node only.
    """
    try:
        mounts = cgroup.read_cgroup(root)
        total = _total_bytes(root, mounts)
        ended = _ended_listed(root, node) if generations else _ended_by_sums(root, mounts, total)
    except KernelFileError:
        return None
    if ended is None:
        return None
    return CacheShares(min(ended, total), max(0, total - ended))


def reclaim_ended(
    root: str,
    generations: bool,
    max_bytes: int,
    scratch_dir: str | None = None,
    wanted: Callable[[], bool] = lambda: True,
    exclude: tuple[str, ...] = (),
) -> EndedResult:
    """Reclaim at most about `max_bytes` of cache of ended cgroups. Blocks; never raises.

    `scratch_dir` is a folder on a disk, for the training. `wanted` is called before each write; False
    ends the run. `exclude`: patterns of cgroups to leave alone.
    """
    mount, path = cgroup.find_v2_mount(root), reclaim.root_reclaim_path(root)
    shares = read_shares(root, generations)
    if shares is None or shares.ended_bytes < LEAST_BYTES:
        return EndedResult()
    if path is None and generations:
        if exclude:
            # A node's reclaim takes from all cgroups: the excluded ones could not be protected.
            return EndedResult(shares.ended_bytes, shares.ended_bytes)
        return _from_nodes(root, max_bytes, shares, wanted)
    if mount is None or path is None:
        return EndedResult()
    if generations:
        taken = _by_parents(root, mount, max_bytes, Taken(shares), wanted)
        is_rest = taken.now.ended_bytes >= LEAST_BYTES
        if is_rest and not (exclude and _holds_cache(root, mount, exclude)):
            _train_live_cgroups(root, scratch_dir)
            taken = _steps(root, generations, path, max_bytes, taken, wanted)
        return taken.since(shares)
    try:
        live_protection.protect(root, mount)
        return _steps(root, generations, path, max_bytes, Taken(shares), wanted).since(shares)
    except GivebackError as error:
        return EndedResult(shares.ended_bytes, shares.ended_bytes, refused=str(error))
    finally:
        _restore_protection(root)


def _restore_protection(root: str) -> None:
    try:
        live_protection.restore(root)
    except KernelFileError:
        # The record stays: the parent of this process restores from it.
        pass


def _holds_cache(root: str, mount: str, exclude: tuple[str, ...]) -> bool:
    """Tell whether excluded cgroups have cache that a reclaim from the root could take."""
    top = mount.rstrip("/")
    excluded = [f for f in memcg.leaves(root, mount) if is_excluded(f[len(top) :], exclude)]
    return sum([memcg.file_bytes_of(root, folder) for folder in excluded]) >= LEAST_BYTES


def _by_parents(
    root: str, mount: str, max_bytes: int, taken: Taken, wanted: Callable[[], bool]
) -> Taken:
    """Reclaim from the live cgroups above the ended ones, with `memory.low` of all live leaves raised.

    With the multi-gen LRU, memory.low protects against a reclaim from any cgroup but the root
    (docs/ended-cgroups.md). So the cache of cgroups that ended directly below the root stays.
    """
    try:
        parents = [one for one in _ended_by_parent(root, mount) if one[1] >= LEAST_BYTES]
    except KernelFileError:
        parents = []
    if not parents:
        return taken
    try:
        live_protection.protect(root, mount)
        for folder, ended_bytes in parents:
            most_bytes = min(max_bytes, taken.asked_bytes + ended_bytes)
            taken = _steps(root, True, f"{folder}/memory.reclaim", most_bytes, taken, wanted)
    except GivebackError as error:
        # Without protection no request may be made to these.
        taken = replace(taken, refused=str(error))
    finally:
        _restore_protection(root)
    return taken


def _ended_by_parent(root: str, mount: str) -> list[tuple[str, int]]:
    """List the nearest live ancestors of ended cgroups, without the root, and the bytes below each."""
    where = cgroup_namespace.place_here(root)
    if where is None:
        return []
    top = mount.rstrip("/")
    found: dict[str, int] = {}
    for one in lru_gen_scan.scan(lru_gen_scan.pieces(root), _ended_pages, within=where).lists:
        # If a live cgroup has the path of the ended one, it is another one, started since.
        folder = (top + one.memcg_path).rpartition("/")[0]
        while folder != top and not files.exists(root, f"{folder}/memory.reclaim"):
            folder = folder.rpartition("/")[0]
        if folder != top:
            ended_bytes = _ended_pages(one) * os.sysconf("SC_PAGE_SIZE")
            found[folder] = found.get(folder, 0) + ended_bytes
    return sorted(found.items(), key=lambda item: -item[1])


def _from_nodes(
    root: str, max_bytes: int, shares: CacheShares, wanted: Callable[[], bool]
) -> EndedResult:
    """Reclaim on each NUMA node by `nodeN/reclaim`, which needs no cgroup v2 (Linux 6.17 and later).

    With the memory controller on cgroup v1 live cgroups cannot be trained. The kernel still visits ended
    cgroups first, and no step follows one that reclaimed from live cgroups.
    """
    asked = steps = 0
    for path in reclaim.node_reclaim_paths(root):
        node = int(path.split("/")[-2][len("node") :])
        here = read_shares(root, True, node)
        if here is not None:
            done = _steps(root, True, path, max_bytes - asked, Taken(here), wanted, node)
            asked, steps = asked + done.asked_bytes, steps + done.steps
    now = read_shares(root, True) or shares
    return EndedResult(shares.ended_bytes, now.ended_bytes, asked, steps)


def _train_live_cgroups(root: str, scratch_dir: str | None) -> None:
    where = cgroup_namespace.place_here(root)
    if scratch_dir is None or where is None:
        return
    least = TRAINED_LEAST_BYTES // os.sysconf("SC_PAGE_SIZE")
    read = lru_gen_scan.pieces(root)
    try:
        found = lru_gen_scan.scan(read, _live_pages, least, TRAINED_LISTS, where)
    except KernelFileError:
        return
    for one in found.lists:
        evict = lru_gen_training.by_lru_gen(root, one.memcg_id, one.node)
        lru_gen_training.train(root, one.memcg_path, scratch_dir, evict, one.node)


def _live_pages(one: NodeGenerations) -> int:
    return one.file_pages if one.memcg_id != 0 else 0


def _ended_pages(one: NodeGenerations) -> int:
    return one.file_pages if one.has_ended else 0


def _total_bytes(root: str, mounts: CgroupMounts) -> int:
    """Return the file cache of this cgroup namespace, or of the guest. Raises KernelFileError."""
    if not mounts.is_part or mounts.v2_mount is None:
        return read_meminfo(root).file_bytes
    # memory.stat is recursive: it includes the ended cgroups below.
    return memcg.read_file_lists(root, mounts.v2_mount.rstrip("/")).file_bytes


def _ended_listed(root: str, node: int | None) -> int | None:
    """Sum the file pages of ended cgroups in lru_gen, in bytes, on one node or all; None if unknown."""
    where = cgroup_namespace.place_here(root)
    if where is None:
        return None
    read = lru_gen_scan.pieces(root)
    found = lru_gen_scan.scan(read, _live_pages, keep=0, within=where, only_node=node)
    return found.ended_pages * os.sysconf("SC_PAGE_SIZE")


def _steps(
    root: str,
    generations: bool,
    path: str,
    max_bytes: int,
    taken: Taken,
    wanted: Callable[[], bool],
    node: int | None = None,
) -> Taken:
    """Continue from `taken` until `max_bytes` were asked for in total, or a step was the last."""
    now, asked, steps = taken.now, taken.asked_bytes, taken.steps
    while now.ended_bytes >= LEAST_BYTES and asked < max_bytes and steps < STEPS_LIMIT and wanted():
        step_bytes = min(STEP_BYTES, now.ended_bytes, max_bytes - asked)
        result = reclaim.reclaim(root, path, step_bytes, 0, or_without=True)
        asked, steps = asked + step_bytes, steps + 1
        after = read_shares(root, generations, node)
        if after is None or result.outcome not in (reclaim.DONE, reclaim.PARTIAL):
            break
        is_poor = now.ended_bytes - after.ended_bytes < step_bytes // POOR_DIVISOR
        is_harmful = now.live_bytes - after.live_bytes > step_bytes // LOSS_DIVISOR
        now = after
        if is_poor or is_harmful:
            break
    return replace(taken, now=now, asked_bytes=asked, steps=steps)


def _ended_by_sums(root: str, mounts: CgroupMounts, total_bytes: int) -> int | None:
    if mounts.v2_mount is None:
        return None
    mount = mounts.v2_mount.rstrip("/")
    unlisted = total_bytes
    leaves = memcg.all_leaves(root, mount)
    if leaves is None:
        # There are too many leaves to read: the cache of the others would count as ended.
        return None
    for leaf in leaves:
        if leaf != mount:
            # A cgroup that ends just now reads as 0: its pages then correctly count as ended.
            unlisted -= memcg.file_bytes_of(root, leaf)
    unlisted = max(0, unlisted)
    own = _root_own_bytes(root)
    if own is None or unlisted < own:
        run_dir.make_folder(root)
        run_dir.write_file(root, ROOT_OWN_PATH, f"{unlisted}\n")
        return 0
    return unlisted - own


def _root_own_bytes(root: str) -> int | None:
    try:
        token = files.read(root, ROOT_OWN_PATH, 64).strip()
    except KernelFileError:
        return None
    return int(token) if token.isdigit() and len(token) < 20 else None
