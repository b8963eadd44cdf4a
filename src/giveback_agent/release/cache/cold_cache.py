"""Reclaim cold page cache and keep the working set, page for page.

The kernel knows which cached pages were read once and which were read again, but a plain request reclaims
both. docs/cold-cache.md has the measurements behind the three methods:

- Two lists (the classic LRU, or the multi-gen LRU if debugfs is closed): `memory.reclaim` of each leaf
  cgroup, only while its inactive list is longer than its active one. Below that the kernel refills the
  inactive list from the active one, and the working set is lost (all of it, on 6.1).
- The multi-gen LRU: pages read through file descriptors stay in the generation in which they were created,
  in that order. Pages that were read again have a higher tier, which counts only when they come up for
  eviction: a protected page moves to the next generation. Protection of pages read 2 to 4 times begins
  after 64 refaults of such pages (MIN_LRU_BATCH in mm/vmscan.c); `train` causes these with a scratch file.
  Then the third-youngest generation is evicted except for a remainder. While a page is left there, the
  kernel puts new cache into it, apart from the kept cache. So the third-youngest generation serves as the
  inactive list and the second-youngest as the active one, and later passes find only new cache there.
  Dirty pages cannot be evicted; they would move to the second-youngest too and leave the generation empty.
  So nothing is evicted while much of it is dirty. If the generation is empty nevertheless (the workload
  deleted the remainder), new cache is among the kept. Then aging opens a new generation: after some hours,
  or at once if the caller asks for it (act.REOPEN).
  This holds up to Linux 6.13; since then new cache goes to the fourth-youngest generation, and kept cache to
  the third-youngest (eviction_plan.target_of).
- A kernel without `memory.reclaim` (before 5.19): memory.high of each leaf is lowered for a moment
  (memory_high.py), within the same bound as with two lists.

Only the last method changes a setting; its original value is on record meanwhile. Everything here blocks, so
it belongs in a worker that can be abandoned.
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
    THIRD_YOUNGEST,
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
# A kernel that might swap is asked only if the inactive list is this many times the active one.
TRIM_TIMES_ACTIVE = 2
# Each step halves the rest; a smaller rest is not worth the calls.
LIST_REST_BYTES = 4 * MIB
STEPS_LIMIT = 4096
# A longer lru_gen file (250 cgroups) is read only once: the kernel's cost of reads grows with the square.
LONG_BYTES = 64 << 10
# With so many cgroups, a smaller step is not worth it.
LEAST_STEP_PAGES = 128
# With these alone below it, a cgroup may hold processes.
THREADED_CONTROLLERS = frozenset((b"cpu", b"cpuset", b"perf_event", b"pids"))
# MEMCG_CHARGE_BATCH: memory.numa_stat may be this far behind.
BEHIND_PAGES_PER_CPU = 64


class ColdResult(Record):
    """The result of a cold step: bytes asked for, bytes reclaimed (pgsteal_file), number of writes.

    `untrained_bytes` were left because training failed, so that pages read again were not protected.
    `training_refaults` were caused by the training; subtract them when counting refaults after a pass.
    """

    asked_bytes: int = 0
    taken_bytes: int = 0
    steps: int = 0
    untrained_bytes: int = 0
    training_refaults: int = 0


def probe(root: str = "/", swap: bool = False) -> str:
    """Return the method that this kernel and this user's rights allow. Reads only.

    GENERATIONS, LISTS, LIMITS (memory.high of cgroups, if there is no swap or `swap` allows its use), or
    NO_METHOD: then the caller can drop the whole cache or nothing.
    """
    may_ask = os.access(files.under(root, lru_gen.PATH), os.R_OK | os.W_OK)
    if may_ask and _generations_on(root) and cgroup_namespace.place_here(root) is not None:
        return GENERATIONS
    if reclaimable_cgroups(root):
        return LISTS
    # If memory.reclaim exists but may not be written, its restriction is not circumvented by memory.high.
    can_limit = reclaim.root_reclaim_path(root) is None and memory_high.cgroups(root)
    return LIMITS if can_limit and (swap or not swaps.may_swap(root)) else NO_METHOD


def scan_targets(
    read: Iterable[bytes],
    place: str,
    page_bytes: int,
    exclude: tuple[str, ...] = (),
    stale_after_s: float = STALE_AFTER_S,
) -> LruScan:
    """Return the lists of lru_gen below the cgroup `place` with the most evictable pages.

    Raises KernelFileError.
    """

    def worth(one: NodeGenerations) -> int:
        if is_excluded(one.memcg_path, exclude):
            return 0
        target = target_of(one, page_bytes, stale_after_s)
        return 0 if target is None else target.pages

    return lru_gen_scan.scan(read, worth, OPEN_BYTES // page_bytes, LISTS_LIMIT, place)


def list_step_bytes(lists: FileLists, budget_bytes: int) -> int:
    """Return the bytes that `memory.reclaim` may take next without touching the active list; 0: no more.

    If the inactive list is the shorter one, the kernel refills it from the active list (lists below
    1 GiB: inactive_is_low(), mm/vmscan.c). So a step takes half of the clean pages above that length:
    the kernel reclaims up to 1.8 times the amount asked for (measured on 6.1).
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
    """Reclaim at most about `max_bytes` of cold cache by `method` (from `probe`). Blocks; never raises.

    `wanted` is called before each write; False ends the step. `scratch_dir` is a folder on a disk (not
    tmpfs) for the training. If training fails, the multi-gen lists are left alone unless `untrained`:
    then pages read fewer than five times are reclaimed like cold ones. `may_swap`: also use a kernel
    before 6.11 that takes no `swappiness=`; otherwise it is used only while it reclaims file pages alone.
    `exclude`: patterns of cgroups to leave alone.

    Dirty pages cannot be reclaimed: sync first.
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
            # There are too many cgroups to read all generations: reclaim the rest by their lists.
            rest = job.left_pages * page_bytes
            result = _sum(result, _from_lists(root, rest, scratch_dir, wanted, may_swap, exclude))
    elif method == LISTS:
        result = _from_lists(root, max_bytes, scratch_dir, wanted, may_swap, exclude)
    elif method == LIMITS and may_swap:
        done = memory_high.reclaim_cold(root, max_bytes, wanted, exclude)
        result = ColdResult(done.asked_bytes, 0, done.steps)
    else:
        return ColdResult()
    # What refaulted in the training was stolen for it.
    taken = _stolen_pages(root) - before - result.training_refaults
    return replace(result, taken_bytes=max(0, taken) * page_bytes)


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
        """Evict from the lists with the most evictable pages; return whether all lists were read."""
        self.place = cgroup_namespace.place_here(self.root)
        if self.place is None:
            return False
        found = self._scan(stale_after_s)
        if found is None:
            return False
        if found.read_bytes > LONG_BYTES:
            self.read_once = {(one.memcg_id, one.node): one for one in found.lists}
        for target in self._plan(found, stale_after_s):
            if self.left_pages <= 0 or not self.wanted():
                return True
            if target.age_first and not self._age(target):
                continue
            # Only then: training moves its pages from a younger generation to the oldest.
            if not self._train(target) and not self.untrained:
                self.untrained_pages += target.pages
                continue
            self._drain(target)
        return found.complete

    def _plan(self, found: LruScan, stale_after_s: float) -> tuple[EvictionTarget, ...]:
        chosen = plan(found, self.left_pages, self.page_bytes, stale_after_s)
        if self.scratch_dir is None or not any(map(self._is_trained, chosen)):
            return chosen
        place = lru_gen_training.place_of_new_cache(self.root, self.scratch_dir, self.place or "")
        if place == THIRD_YOUNGEST:
            return chosen
        return plan(found, self.left_pages, self.page_bytes, stale_after_s, place)

    def _is_trained(self, target: EvictionTarget) -> bool:
        """Return whether the target needs a training: it is large, and processes may read it again."""
        large = target.pages * self.page_bytes >= TRAINING_WORTH_BYTES
        return large and not self._may_hold_no_process(target)

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
        if not self._is_trained(target):
            return True
        evict = lru_gen_training.by_lru_gen(self.root, target.memcg_id, target.node)
        done = lru_gen_training.train(
            self.root, target.memcg_path, self.scratch_dir, evict, target.node
        )
        self.training_refaults += done.refaults
        return done.protects

    def _may_hold_no_process(self, target: EvictionTarget) -> bool:
        """Return whether the kernel lets no process into the target.

        Then its pages are of cgroups below it that have ended, such as containers: since Linux 7.0 they
        become the parent's. Source: cgroup-v2.rst, "No Internal Process Constraint" and "Threads".
        """
        folder = f"{self.mount or ''}{target.memcg_path}".rstrip("/")
        if self.mount is None or folder == self.mount:
            return False
        try:
            enabled = files.read(self.root, f"{folder}/cgroup.subtree_control", 4096)
        except KernelFileError:
            return False
        return bool(set(enabled.split()) - THREADED_CONTROLLERS)

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
        """Return the target's folder; None if its files include the pages of other cgroups."""
        mount = self.mount
        folder = f"{mount}{target.memcg_path}".rstrip("/")
        is_leaf = mount and folder != mount and not memcg.children(self.root, folder)
        return folder if is_leaf else None

    def _resized(self, target: EvictionTarget, folder: str) -> NodeGenerations | None:
        """Return the list as it was read, with its present size from the cgroup's own file."""
        one = self.read_once.get((target.memcg_id, target.node))
        try:
            size = memcg.inactive_file_bytes(self.root, folder, target.node)
        except KernelFileError:
            return None
        # The kernel's sum may be too high by this much.
        behind = BEHIND_PAGES_PER_CPU * (os.cpu_count() or 1)
        inactive = max(0, size // self.page_bytes - behind)
        if one is None:
            return None
        return replace(one, generations=lru_gen.shrunk(one, target.up_to, inactive))

    def _unprotected_pages(self, target: EvictionTarget) -> int:
        """Return the pages above memory.min and memory.low, which eviction by lru_gen ignores."""
        mount = self.mount
        if mount is None:
            return self.left_pages
        folder = f"{mount}{target.memcg_path.rstrip('/')}"
        return memcg.unprotected_bytes(self.root, mount, folder) // self.page_bytes

    def _is_dirty(self, pages: int) -> bool:
        """Tell whether many of `pages` may be dirty; all dirty pages may be among them."""
        try:
            memory = read_meminfo(self.root)
        except KernelFileError:
            return True
        return is_largely_dirty(memory, pages * self.page_bytes)

    def _list_of(self, target: EvictionTarget) -> NodeGenerations | None:
        """Read lru_gen up to this list and return it; None if it is not there."""
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
                evict = lru_gen_training.by_memory_reclaim(root, folder)
                refaults += lru_gen_training.train(root, path, scratch_dir, evict).refaults
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
    """Tell whether a kernel that takes no `swappiness=` would reclaim only file pages, and not swap.

    With many inactive file pages it reclaims only these (cache_trim_mode in mm/vmscan.c). With lists of
    similar length it also scans anonymous memory (docs/cold-cache.md).
    """
    return lists.inactive_bytes >= TRIM_TIMES_ACTIVE * lists.active_bytes


def _swapped_out_pages(root: str) -> int:
    try:
        return read_vmstat(root).pswpout or 0
    except KernelFileError:
        return 0


def lists_of(root: str, folder: str) -> FileLists:
    """Read a cgroup's file lists; those of the whole guest if `folder` is a mount without memory.stat.

    Raises KernelFileError.
    """
    try:
        return memcg.read_file_lists(root, folder)
    except KernelFileError:
        if folder != cgroup.find_v2_mount(root):
            raise
        # The root of a cgroup namespace or of an old kernel has no memory.stat.
        memory = read_meminfo(root)
    return FileLists(
        memory.active_file_bytes,
        memory.inactive_file_bytes,
        memory.dirty_bytes,
        memory.writeback_bytes,
    )


def reclaimable_cgroups(root: str, exclude: tuple[str, ...] = ()) -> tuple[str, ...]:
    """List the folders whose memory.reclaim may be written: the leaves, or the mount if it has none."""
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
