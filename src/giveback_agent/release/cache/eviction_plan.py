"""Choose the generations of the multi-gen LRU to evict. Pure."""

from __future__ import annotations

from giveback_kernel.record import Record
from giveback_kernel.units import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.lru_gen import LruGen, NodeGenerations
    from giveback_kernel.lru_gen_scan import LruScan

# Which generation, counted from the youngest, takes pages that are read through a file descriptor.
THIRD_YOUNGEST, FOURTH_YOUNGEST = 3, 4
# One write: a returning workload waits for at most this much reclaim.
STEP_LIMIT_BYTES = 64 * MIB
LISTS_LIMIT = 64
# A list with fewer evictable bytes is not worth a scratch file.
TRAINING_WORTH_BYTES = 8 * MIB
# This remainder of the generation that takes new cache keeps it open.
OPEN_BYTES = 2 * MIB
# Kept pages come up for eviction again only after this long; those not read twice since are evicted.
STALE_AFTER_S = 4 * 3600.0


class EvictionTarget(Record):
    """One memory cgroup on one node, whose generations up to `up_to` are to be evicted: `pages` file pages.

    `leave_pages` remain to keep the last of these generations open. `age_first`: a new generation must
    be opened before anything of this list may be evicted.
    """

    memcg_id: int
    memcg_path: str
    node: int
    up_to: int
    pages: int
    leave_pages: int = 0
    age_first: bool = False


def plan(
    lru: LruGen | LruScan,
    max_pages: int,
    page_bytes: int,
    stale_after_s: float = STALE_AFTER_S,
    new_cache_in: int = THIRD_YOUNGEST,
) -> tuple[EvictionTarget, ...]:
    """Choose the lists to evict from: the largest first, at most about `max_pages` together."""
    targets = [
        target
        for one in lru.lists
        for target in (target_of(one, page_bytes, stale_after_s, new_cache_in),)
        if target is not None
    ]
    targets.sort(key=lambda target: -target.pages)
    chosen: list[EvictionTarget] = []
    left = max_pages
    for target in targets[:LISTS_LIMIT]:
        if left <= 0:
            break
        chosen.append(target)
        left -= target.pages
    return tuple(chosen)


def target_of(
    one: NodeGenerations,
    page_bytes: int,
    stale_after_s: float,
    new_cache_in: int = THIRD_YOUNGEST,
) -> EvictionTarget | None:
    """Choose the generation of one list to evict; None if none is worth it.

    Usually that is the generation that takes new cache (`new_cache_in`, counted from the youngest), except
    for a remainder. If an older one has more than a remainder, only that one is evicted, completely: its
    kept pages move to the next generation with their history cleared, and must not come up for eviction in
    the same pass. If no generation is that old, but the youngest is older than `stale_after_s`, a new one is
    opened, so that the next younger one, which has the kept pages, becomes as old. An ended cgroup has no
    id to name in a request and cannot be trained: see ended_cgroups.py.

    New cache goes to the third-youngest generation, since Linux 6.14 to the fourth-youngest. Source:
    lru_gen_folio_seq() in include/linux/mm_inline.h.
    """
    if one.has_ended:
        return None
    leave = OPEN_BYTES // page_bytes
    younger = new_cache_in - 1
    evictable = one.generations[:-younger]
    for generation in evictable[:-1]:
        if generation.file_pages > leave:
            return EvictionTarget(
                one.memcg_id, one.memcg_path, one.node, generation.number, generation.file_pages
            )
    if evictable:
        # Remainders of older generations are evicted along with it.
        pages = sum([generation.file_pages for generation in evictable]) - leave
        if pages > leave:
            number = evictable[-1].number
            return EvictionTarget(one.memcg_id, one.memcg_path, one.node, number, pages, leave)
    if len(one.generations) < younger:
        return None
    stale = one.generations[-younger]
    worth_it = stale.file_pages * page_bytes >= TRAINING_WORTH_BYTES
    if worth_it and one.generations[-1].age_ms >= stale_after_s * 1000:
        pages = stale.file_pages - leave
        return EvictionTarget(
            one.memcg_id, one.memcg_path, one.node, stale.number, pages, leave, True
        )
    return None


def eviction_pages(
    one: NodeGenerations, target: EvictionTarget, budget_pages: int, page_bytes: int
) -> int:
    """Return how many pages the next write may evict; 0: the target is done.

    At most half of the pages that are there: kept pages leave the generation as well, but are not counted.
    """
    there = sum([g.file_pages for g in one.generations if g.number <= target.up_to])
    over = there - target.leave_pages
    if over <= 0 or budget_pages <= 0:
        return 0
    pages = over if target.leave_pages == 0 else (over + 1) // 2
    return min(pages, budget_pages, STEP_LIMIT_BYTES // page_bytes)
