"""Return cold page cache and keep the working set, page for page.

The kernel knows which cached pages were read once and which were read again; asked the wrong way it
takes both. What is asked here, and why, is measured in docs/cold-cache.md. In short:

- Two lists (the classic LRU, and the multi-gen LRU where debugfs is closed): `memory.reclaim` of each
  leaf cgroup, only while its inactive list is longer than its active one: below that the kernel
  refills it from the active list, and the working set goes (all of it, on 6.1).
- The multi-gen LRU: pages read through file descriptors stay in the generation they were born in, in
  the order of their birth. What was read again is told apart by its tier only when it comes up for
  eviction: a protected page moves to the next generation. Protection of pages read 2 to 4 times
  begins after 64 refaults of such pages (MIN_LRU_BATCH in mm/vmscan.c): `train` makes these with a
  scratch file. Then the third-youngest generation is evicted all but a remainder: as long as a page
  is left there the kernel puts new cache into it, and never what was kept. So the third-youngest
  serves as the inactive list, the second-youngest as the active one, and later passes find only
  new cache to take. Dirty pages cannot be taken: they move to the second-youngest, too. So nothing is
  taken while much of it is dirty, or the generation would be closed by what it cannot give. Where
  it was closed all the same (the work has deleted the remainder), the new cache lies among the kept:
  a new generation is opened by aging, at once where the caller finds that worth it (act.REOPEN).
- A kernel without `memory.reclaim` (before 5.19): memory.high of each leaf is lowered for a moment
  (memory_high), within the same bound as with two lists.

Only the last changes a setting, which is on record meanwhile. Everything blocks, so it belongs in a
worker that can be abandoned.
"""

from __future__ import annotations

import os

from giveback_agent.cgroups.exclusion import is_excluded, kept
from giveback_agent.policy.observation import GENERATIONS, LIMITS, LISTS, NO_METHOD
from giveback_agent.policy.thresholds import is_largely_dirty
from giveback_agent.release.cache import lru_gen_training, memory_high
from giveback_agent.release.cache.eviction_plan import (
    LISTS_LIMIT,
    OPEN_BYTES,
    STALE_AFTER_S,
    STEP_LIMIT_BYTES,
    TRAINING_WORTH_BYTES,
    EvictionTarget,
    eviction_pages,
    plan,
    target_of,
)
from giveback_kernel import (
    cgroup,
    cgroup_namespace,
    files,
    lru_gen,
    lru_gen_scan,
    memcg,
    reclaim,
    swaps,
)
from giveback_kernel.errors import KernelFileError
from giveback_kernel.memcg import FileLists
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import Record, replace
from giveback_kernel.vmstat import read_vmstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from giveback_kernel.lru_gen import NodeGenerations
    from giveback_kernel.lru_gen_scan import LruScan

MIB = 1 << 20
# So many times the active list the inactive one must be for a kernel that might swap.
TRIM_TIMES_ACTIVE = 2
# Steps halve what is left, and stop here: the rest is not worth the calls.
LIST_REST_BYTES = 4 * MIB
STEPS_LIMIT = 4096
# A longer lru_gen (250 cgroups) is read once: the kernel's part of that grows with the square.
LONG_BYTES = 64 << 10
# There a step for less is not worth it.
LEAST_STEP_PAGES = 128
# MEMCG_CHARGE_BATCH: so far behind the sums in memory.numa_stat may be.
BEHIND_PAGES_PER_CPU = 64


class ColdResult(Record):
    """What a pass did: bytes asked for, bytes the kernel says it took (pgsteal_file), writes made.

    `untrained_bytes` were left because pages read again could not have been protected there.
    `training_refaults` are ours: whoever counts refaults after a pass subtracts them.
    """

    asked_bytes: int = 0
    taken_bytes: int = 0
    steps: int = 0
    untrained_bytes: int = 0
    training_refaults: int = 0


def probe(root: str = "/", swap: bool = False) -> str:
    """Tell which method this kernel and this user's rights allow; reads only.

    GENERATIONS, LISTS, LIMITS (memory.high of cgroups, where there is no swap or `swap` may be used), or
    NO_METHOD: there the whole cache or nothing can be dropped, by the caller.
    """
    may_ask = os.access(files.under(root, lru_gen.PATH), os.R_OK | os.W_OK)
    if may_ask and _generations_on(root) and cgroup_namespace.place_here(root) is not None:
        return GENERATIONS
    if reclaimable_cgroups(root):
        return LISTS
    # A kernel that could be asked for less, but refuses, is not asked by a back door.
    can_limit = reclaim.root_reclaim_path(root) is None and memory_high.cgroups(root)
    return LIMITS if can_limit and (swap or not swaps.may_swap(root)) else NO_METHOD


def scan_targets(
    read: Iterable[bytes],
    place: str,
    page_bytes: int,
    exclude: tuple[str, ...] = (),
    stale_after_s: float = STALE_AFTER_S,
) -> LruScan:
    """Return the lists of lru_gen below the cgroup `place` from which most may be evicted.

    Raises KernelFileError.
    """

    def worth(one: NodeGenerations) -> int:
        if is_excluded(one.memcg_path, exclude):
            return 0
        target = target_of(one, page_bytes, stale_after_s)
        return 0 if target is None else target.pages

    return lru_gen_scan.scan(read, worth, OPEN_BYTES // page_bytes, LISTS_LIMIT, place)


def list_step_bytes(lists: FileLists, budget_bytes: int) -> int:
    """Return how much `memory.reclaim` may take next so that the active list is left alone; 0 ends.

    Where the inactive list is the smaller one the kernel refills it from the active one (in
    inactive_is_low(), mm/vmscan.c, lists below 1 GiB): what is clean above that, by halves, because
    it takes up to 1.8 times of what is asked (measured on 6.1).
    """
    clean = lists.inactive_bytes - lists.dirty_bytes - lists.writeback_bytes
    over = min(clean, lists.inactive_bytes - lists.active_bytes)
    if over <= LIST_REST_BYTES:
        return 0
    return max(0, min(over // 2, STEP_LIMIT_BYTES, budget_bytes))


def reclaim_cold(
    root: str,
    method: str,
    max_bytes: int,
    scratch_dir: str | None = None,
    wanted: Callable[[], bool] = lambda: True,
    untrained: bool = False,
    stale_after_s: float = STALE_AFTER_S,
    may_swap: bool = False,
    exclude: tuple[str, ...] = (),
) -> ColdResult:
    """Take at most about `max_bytes` of cold cache by `method` (from `probe`); blocks; never raises.

    `wanted` is asked before each write and ends the pass by False. `scratch_dir` is a folder on a
    disk (not tmpfs) for the training; where training fails the multi-gen lists are left alone,
    unless `untrained`: then pages read fewer than five times go with the cold ones. `may_swap`: where
    a kernel before 6.11 cannot be told to leave the memory of programs alone, ask it all the same;
    else only as long as it is known to do so. `exclude`: patterns of cgroups to leave alone.

    Dirty pages cannot be taken: sync first.
    """
    if max_bytes <= 0:
        return ColdResult()
    before = _stolen_pages(root)
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    if method == GENERATIONS:
        budget_pages = max_bytes // page_bytes
        job = _Generations(root, page_bytes, budget_pages, scratch_dir, wanted, untrained, exclude)
        is_complete = job.run(stale_after_s)
        result = job.result()
        if not is_complete and job.left_pages > 0 and wanted():
            # There are too many cgroups to read all their generations: the rest by their lists.
            rest = job.left_pages * page_bytes
            result = _sum(result, _from_lists(root, rest, scratch_dir, wanted, may_swap, exclude))
    elif method == LISTS:
        result = _from_lists(root, max_bytes, scratch_dir, wanted, may_swap, exclude)
    elif method == LIMITS and may_swap:
        done = memory_high.reclaim_cold(root, max_bytes, wanted, exclude)
        result = ColdResult(done.asked_bytes, 0, done.steps)
    else:
        return ColdResult()
    taken = max(0, _stolen_pages(root) - before) * page_bytes
    return replace(result, taken_bytes=taken)


class _Generations:
    def __init__(
        self,
        root: str,
        page_bytes: int,
        budget_pages: int,
        scratch_dir: str | None,
        wanted: Callable[[], bool],
        untrained: bool,
        exclude: tuple[str, ...],
    ) -> None:
        self.root = root
        self.page_bytes = page_bytes
        self.left_pages = budget_pages
        self.scratch_dir = scratch_dir
        self.wanted = wanted
        self.untrained = untrained
        self.exclude = exclude
        self.asked_pages = self.steps = self.untrained_pages = self.training_refaults = 0
        self.place: str | None = ""
        self.mount = cgroup.find_v2_mount(root)
        self.read_once: dict[tuple[int, int], NodeGenerations] = {}

    def run(self, stale_after_s: float) -> bool:
        """Take from the lists that are worth most; returns whether all of them were looked at."""
        self.place = cgroup_namespace.place_here(self.root)
        if self.place is None:
            return False
        found = self._scan(stale_after_s)
        if found is None:
            return False
        if found.read_bytes > LONG_BYTES:
            self.read_once = {(one.memcg_id, one.node): one for one in found.lists}
        for target in plan(found, self.left_pages, self.page_bytes, stale_after_s):
            if self.left_pages <= 0 or not self.wanted():
                return True
            if not self._train(target) and not self.untrained:
                self.untrained_pages += target.pages
                continue
            if not target.age_first or self._age(target):
                self._drain(target)
        return found.complete

    def result(self) -> ColdResult:
        return ColdResult(
            self.asked_pages * self.page_bytes,
            0,
            self.steps,
            self.untrained_pages * self.page_bytes,
            self.training_refaults,
        )

    def _train(self, target: EvictionTarget) -> bool:
        if self.scratch_dir is None:
            return False
        if target.pages * self.page_bytes < TRAINING_WORTH_BYTES:
            return True
        refaults = lru_gen_training.train(self.root, target.memcg_path, self.scratch_dir)
        self.training_refaults += refaults
        return refaults >= lru_gen_training.ENOUGH_REFAULTS

    def _age(self, target: EvictionTarget) -> bool:
        one = self._list_of(target)
        if one is None:
            return False
        try:
            lru_gen.write_request(self.root, lru_gen.aging_request(one, can_swap=False))
        except (KernelFileError, ValueError):
            return False
        return True

    def _scan(self, stale_after_s: float) -> LruScan | None:
        read, place = lru_gen_scan.pieces(self.root), self.place or ""
        try:
            return scan_targets(read, place, self.page_bytes, self.exclude, stale_after_s)
        except KernelFileError:
            return None

    def _drain(self, target: EvictionTarget) -> None:
        folder = self._leaf_of(target) if self.read_once and not target.age_first else None
        least = 1 if folder is None else LEAST_STEP_PAGES
        last = -1
        spare_pages = self._unprotected_pages(target)
        while self.steps < STEPS_LIMIT and self.wanted():
            one = self._list_of(target) if folder is None else self._resized(target, folder)
            if one is None:
                return
            there = sum([g.file_pages for g in one.generations if g.number <= target.up_to])
            budget_pages = min(self.left_pages, spare_pages)
            pages = eviction_pages(one, target, budget_pages, self.page_bytes)
            if pages < least or there == last or self._is_dirty(there):
                return
            last = there
            self.steps += 1
            self.asked_pages += pages
            self.left_pages -= pages
            spare_pages -= pages
            try:
                request = lru_gen.eviction_request(one, target.up_to, 0, pages)
                lru_gen.write_request(self.root, request)
            except (KernelFileError, ValueError):
                return

    def _leaf_of(self, target: EvictionTarget) -> str | None:
        """The target's folder, whose files tell its size; None where they include other cgroups."""
        mount = self.mount
        folder = f"{mount}{target.memcg_path}".rstrip("/")
        is_leaf = mount and folder != mount and not memcg.children(self.root, folder)
        return folder if is_leaf else None

    def _resized(self, target: EvictionTarget, folder: str) -> NodeGenerations | None:
        """The list as it was read, with the size that the cgroup's own file tells now."""
        one = self.read_once.get((target.memcg_id, target.node))
        try:
            size = memcg.inactive_file_bytes(self.root, folder, target.node)
        except KernelFileError:
            return None
        # By so much the kernel's sum may be too high.
        behind = BEHIND_PAGES_PER_CPU * (os.cpu_count() or 1)
        inactive = max(0, size // self.page_bytes - behind)
        if one is None:
            return None
        return replace(one, generations=lru_gen.shrunk(one, target.up_to, inactive))

    def _unprotected_pages(self, target: EvictionTarget) -> int:
        """What is beyond memory.min and memory.low, which lru_gen does not look at."""
        mount = self.mount
        if mount is None:
            return self.left_pages
        folder = f"{mount}{target.memcg_path.rstrip('/')}"
        return memcg.unprotected_bytes(self.root, mount, folder) // self.page_bytes

    def _is_dirty(self, pages: int) -> bool:
        """Whether much of so many pages may be dirty; all that is dirty may be among them."""
        try:
            memory = read_meminfo(self.root)
        except KernelFileError:
            return True
        return is_largely_dirty(memory, pages * self.page_bytes)

    def _list_of(self, target: EvictionTarget) -> NodeGenerations | None:
        """Read lru_gen as far as this list."""
        try:
            read = lru_gen_scan.pieces(self.root)
            return lru_gen_scan.find(read, target.memcg_id, target.node)
        except KernelFileError:
            return None


def _sum(first: ColdResult, second: ColdResult) -> ColdResult:
    return ColdResult(
        first.asked_bytes + second.asked_bytes,
        0,
        first.steps + second.steps,
        first.untrained_bytes,
        first.training_refaults + second.training_refaults,
    )


def _from_lists(
    root: str,
    max_bytes: int,
    scratch_dir: str | None,
    wanted: Callable[[], bool],
    may_swap: bool,
    exclude: tuple[str, ...],
) -> ColdResult:
    asked = steps = refaults = 0
    swapped_out = _swapped_out_pages(root)
    mount = cgroup.find_v2_mount(root) or ""
    for folder in reclaimable_cgroups(root, exclude):
        first = True
        while steps < STEPS_LIMIT and wanted():
            try:
                lists = lists_of(root, folder)
            except KernelFileError:
                break
            unprotected = memcg.unprotected_bytes(root, mount, folder)
            step_bytes = min(list_step_bytes(lists, max_bytes - asked), unprotected)
            if step_bytes <= 0:
                break
            if first and scratch_dir is not None and _generations_on(root):
                path = folder[len(mount) :] or "/"
                refaults += lru_gen_training.train(root, path, scratch_dir)
            first = False
            steps += 1
            asked += step_bytes
            path = f"{folder}/memory.reclaim"
            unasked = may_swap or (
                leaves_programs_alone(lists) and _swapped_out_pages(root) == swapped_out
            )
            result = reclaim.reclaim(root, path, step_bytes, 0, or_without=unasked)
            if result.outcome != reclaim.DONE:
                refused = result.outcome == reclaim.SWAPPINESS_REFUSED
                asked, steps = (asked - step_bytes, steps - 1) if refused else (asked, steps)
                break
    return ColdResult(asked, 0, steps, 0, refaults)


def leaves_programs_alone(lists: FileLists) -> bool:
    """Tell whether a kernel that takes no `swappiness=` would take file pages only, and not swap.

    With plenty of inactive file pages it takes these alone (cache_trim_mode in mm/vmscan.c); near the
    balance of the lists it looks at anonymous memory, too (docs/cold-cache.md).
    """
    return lists.inactive_bytes >= TRIM_TIMES_ACTIVE * lists.active_bytes


def _swapped_out_pages(root: str) -> int:
    try:
        return read_vmstat(root).pswpout or 0
    except KernelFileError:
        return 0


def lists_of(root: str, folder: str) -> FileLists:
    """Read a cgroup's file lists; the top's own where it tells none. Raises KernelFileError."""
    try:
        return memcg.read_file_lists(root, folder)
    except KernelFileError:
        if folder != cgroup.find_v2_mount(root):
            raise
        memory = read_meminfo(root)  # a cgroup namespace's or an old kernel's root has no stat
    return FileLists(
        memory.active_file_bytes,
        memory.inactive_file_bytes,
        memory.dirty_bytes,
        memory.writeback_bytes,
    )


def reclaimable_cgroups(root: str, exclude: tuple[str, ...] = ()) -> tuple[str, ...]:
    """List the folders to ask: the leaves, or the top where that is all there is."""
    top = reclaim.root_reclaim_path(root)
    if top is None or not reclaim.is_permitted(root, top):
        return ()
    mount = top[: -len("/memory.reclaim")]
    leaves = memcg.leaves(root, mount, memcg.MANY_CGROUPS) or (mount,)
    found = kept(leaves, mount, exclude)
    return tuple([f for f in found if reclaim.is_permitted(root, f"{f}/memory.reclaim")])


def _generations_on(root: str) -> bool:
    try:
        return lru_gen.read_enabled(root)
    except KernelFileError:
        return False


def _stolen_pages(root: str) -> int:
    try:
        return read_vmstat(root).pgsteal_file or 0
    except KernelFileError:
        return 0
