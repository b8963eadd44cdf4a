"""Swap out anonymous memory that was not touched for a while, by the generations of the multi-gen LRU.

Aging opens a generation: it reads each page's accessed bit and moves pages in use to the new generation. So
a page in the third-youngest generation, or an older one, was not touched since the second-youngest was
opened. Eviction reads the bit once more and keeps pages that were touched meanwhile. An idle guest does not
age its lists by itself: each call here evicts the pages that are cold by now and opens a generation for the
next call.

`memory.reclaim` with `swappiness=max` would work without debugfs. But it ages as often as it needs pages, all
in one call, and then pages in use look as cold as the others.

Aging also moves cached files. Files kept by cold_cache.py come up for eviction after two such calls instead
of after hours, and are kept if they were read again since. Source: lru_gen_seq_write() and run_eviction()
in mm/vmscan.c. docs/cold-anon.md has the measurements.
"""

from __future__ import annotations

import os

from giveback_agent.cgroups.exclusion import is_excluded
from giveback_kernel import lru_gen, swaps, zram
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record
from giveback_kernel.vmstat import read_vmstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_kernel.lru_gen import LruGen, NodeGenerations

MIB = 1 << 20
SWAPPINESS = 200
# A list with less anonymous memory is not worth walking page tables for.
LIST_LEAST_BYTES = 8 * MIB
COLD_LEAST_BYTES = MIB
WRITE_BYTES = 32 * MIB
LISTS_LIMIT = 64
WRITES_LIMIT = 256
# zram that occupies more than this part of the data in it saves too little.
ZRAM_MOST_PERCENT = 60
ZRAM_JUDGED_BYTES = 16 * MIB


class ColdAnonResult(Record):
    """Bytes swapped out, bytes that zram occupies for them, lists aged, and why nothing was done ("")."""

    swapped_bytes: int = 0
    zram_bytes: int = 0
    aged: int = 0
    refused: str = ""


def probe(root: str, generations: bool) -> bool:
    """Tell whether cold anonymous memory can be recognised here and there is swap. Reads only."""
    try:
        return generations and bool(swaps.read_swaps(root).areas)
    except KernelFileError:
        return False


def reclaim_cold_anon(
    root: str,
    max_bytes: int,
    cold_after_s: float,
    exclude: tuple[str, ...] = (),
    wanted: Callable[[], bool] = lambda: True,
) -> ColdAnonResult:
    """Swap out at most `max_bytes` that were not touched for `cold_after_s`, then age the lists.

    Blocks; never raises. `exclude`: patterns of cgroups to leave alone.
    """
    try:
        refused = why_not(root)
        lru = lru_gen.read_lru_gen(root)
    except KernelFileError as error:
        return ColdAnonResult(refused=str(error))
    if refused or lru is None:
        return ColdAnonResult(refused=refused or "lru_gen cannot be read")
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    before, zram_before = _swapped_out(root), _zram_bytes(root)
    lists = worthy(lru, page_bytes, exclude)
    left = max_bytes
    for one in lists:
        left -= _evict(root, one, cold_after_s, left, page_bytes, wanted)
    aged = sum([_age(root, one, cold_after_s) for one in lists if wanted()])
    swapped = max(0, _swapped_out(root) - before) * page_bytes
    return ColdAnonResult(swapped, max(0, _zram_bytes(root) - zram_before), aged)


def why_not(root: str) -> str:
    """Return why swapping out would not free memory here; "" if it would. Raises KernelFileError.

    The reason is that of the swap area that the kernel uses next: the one of the highest priority with
    free space.
    """
    areas = [a for a in swaps.read_swaps(root).areas if a.size_bytes - a.used_bytes > WRITE_BYTES]
    if not areas:
        return "no swap area has free space"
    area = max(areas, key=lambda one: one.priority)
    if not area.is_zram:
        return ""
    use = zram.read_use(root, area.path.rpartition("/")[2])
    is_poor = use.mem_used_bytes * 100 > use.orig_data_bytes * ZRAM_MOST_PERCENT
    if use.orig_data_bytes >= ZRAM_JUDGED_BYTES and is_poor:
        return f"{area.path} compresses too little"
    return ""


def worthy(lru: LruGen, page_bytes: int, exclude: tuple[str, ...]) -> list[NodeGenerations]:
    """Choose the lists of live cgroups with enough anonymous memory, the largest first."""
    found = []
    for one in lru.lists:
        pages = sum([generation.anon_pages for generation in one.generations])
        is_live = one.memcg_id != 0 or one.memcg_path in ("", "/")
        is_large = pages * page_bytes >= LIST_LEAST_BYTES
        if is_live and is_large and not is_excluded(one.memcg_path, exclude):
            found.append((pages, one))
    found.sort(key=lambda pair: -pair[0])
    return [one for _, one in found[:LISTS_LIMIT]]


def cold_pages(one: NodeGenerations, cold_after_s: float) -> int:
    """Count the anonymous pages of one list that were not touched for `cold_after_s`."""
    if len(one.generations) <= lru_gen.YOUNG_GENERATIONS:
        return 0
    second_youngest = one.generations[-lru_gen.YOUNG_GENERATIONS]
    if second_youngest.age_ms < cold_after_s * 1000:
        return 0
    old = one.generations[: -lru_gen.YOUNG_GENERATIONS]
    return sum([generation.anon_pages for generation in old])


def _evict(
    root: str,
    one: NodeGenerations,
    cold_after_s: float,
    left_bytes: int,
    page_bytes: int,
    wanted: Callable[[], bool],
) -> int:
    """Evict the cold pages of one list; return the bytes that were requested."""
    most = min(cold_pages(one, cold_after_s), left_bytes // page_bytes)
    if most * page_bytes < COLD_LEAST_BYTES:
        return 0
    up_to = one.generations[-lru_gen.YOUNG_GENERATIONS - 1].number
    asked = 0
    for _ in range(WRITES_LIMIT):
        pages = min(most - asked, WRITE_BYTES // page_bytes)
        if pages <= 0 or not wanted():
            break
        try:
            request = lru_gen.eviction_request(one, up_to, SWAPPINESS, pages)
            lru_gen.write_request(root, request)
        except (KernelFileError, ValueError):
            break
        asked += pages
    return asked * page_bytes


def _age(root: str, one: NodeGenerations, cold_after_s: float) -> bool:
    """Open a new generation if the youngest is old enough; return whether it was opened."""
    if not one.generations or one.generations[-1].age_ms < cold_after_s * 1000:
        return False
    try:
        lru_gen.write_request(root, lru_gen.aging_request(one, can_swap=True, force=True))
    except (KernelFileError, ValueError):
        return False
    return True


def _swapped_out(root: str) -> int:
    try:
        return read_vmstat(root).pswpout or 0
    except KernelFileError:
        return 0


def _zram_bytes(root: str) -> int:
    total = 0
    try:
        for area in swaps.read_swaps(root).areas:
            if area.is_zram:
                total += zram.read_use(root, area.path.rpartition("/")[2]).mem_used_bytes
    except KernelFileError:
        return 0
    return total
