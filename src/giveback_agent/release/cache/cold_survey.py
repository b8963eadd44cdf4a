"""Measure how much cold cache a pass would reclaim now. Reads only.

By the kernel's totals more cache is cold than a pass can find: they include excluded cgroups, the part that
each list must keep, and many lists with little each. So this reads the same lists as a pass. `status`,
`picture` and the answers to the host all report this number, and the host promises no more to its users.
"""

from __future__ import annotations

import os

from giveback_agent.policy import cache_goal, thresholds
from giveback_agent.policy.observation import GENERATIONS, LIMITS, LISTS, NO_METHOD, URGENCY_ALONE
from giveback_agent.release.cache import cold_cache, eviction_plan, memory_high
from giveback_agent.settings.table import AgentSettings
from giveback_kernel import cgroup, cgroup_namespace, compaction, lru_gen_scan, memcg
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from giveback_kernel.meminfo import MemInfo

# A host may ask every few seconds: with more cgroups than this the kernel's totals are used instead.
CGROUPS_LIMIT = 256
CPU_LIMIT_S = 0.1


class CacheTerms(Record):
    """The limits of a pass: its method, both floors in bytes, and the patterns of excluded cgroups.

    `is_judged`: the last cold step has judged all present cache, so that a pass takes none again so soon.
    """

    method: str = NO_METHOD
    cache_floor_bytes: int = 0
    learned_floor_bytes: int = 0
    exclude: tuple[str, ...] = ()
    is_judged: bool = False


def terms_of(said: dict[str, Any], now_s: float, memory: MemInfo) -> CacheTerms:
    """Return the terms in an agent's status (status_file.terms_fields); invalid values are ignored."""
    exclude, method = said.get("exclude"), said.get("cold_method")
    patterns = exclude if isinstance(exclude, (list, tuple)) else ()
    return CacheTerms(
        method if method in (GENERATIONS, LISTS, LIMITS) else NO_METHOD,
        amount(said, "cache_floor_bytes"),
        amount(said, "learned_floor_bytes"),
        tuple([one for one in patterns if isinstance(one, str)]),
        _is_judged(said.get("judged"), now_s, memory),
    )


def terms_alone(root: str) -> CacheTerms:
    """Return the terms if no agent runs: those of an agent with default settings, run by root."""
    method = cold_cache.probe(root)
    if method == NO_METHOD and os.geteuid() != 0:
        # An agent run by root may use the kernel's interface, though this user may not.
        method = GENERATIONS
    return CacheTerms(method, AgentSettings().cache_floor_bytes)


def amount(said: object, key: str) -> int:
    """Return an amount from a status; 0 if it is missing or invalid."""
    value = said.get(key) if isinstance(said, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _is_judged(judged: object, now_s: float, memory: MemInfo) -> bool:
    at_s = judged.get("at_s") if isinstance(judged, dict) else None
    if not isinstance(at_s, (int, float)) or isinstance(at_s, bool):
        return False
    last = cache_goal.JudgedCache(float(at_s), amount(judged, "cache_bytes"))
    return last.is_all_judged(memory.file_bytes, now_s, thresholds.least_bytes(memory))


def promise(root: str, terms: CacheTerms, memory: MemInfo) -> dict[str, object]:
    """Return the fields that the host gets: the cache that a pass would take, and both floors, in bytes.

    `cache_in_parts`: whether a part of the cache can be reclaimed, so that the host may name an amount.
    """
    return {
        "cache_in_parts": terms.method != NO_METHOD,
        "would_take_bytes": would_take_bytes(root, terms, memory),
        "cache_floor_bytes": terms.cache_floor_bytes,
        "learned_floor_bytes": terms.learned_floor_bytes,
    }


def would_take_bytes(root: str, terms: CacheTerms, memory: MemInfo) -> int:
    """Return the most bytes of cache that a pass would reclaim now at urgency 1.

    Dirty pages count, as a pass begins with a sync.
    """
    if terms.is_judged:
        return 0
    found = found_bytes(root, terms.method, terms.exclude)
    if found is None:
        found = _by_totals(memory, terms.method)
    return cache_goal.takeable_bytes(
        found,
        terms.learned_floor_bytes,
        memory.file_bytes,
        terms.cache_floor_bytes,
        URGENCY_ALONE,
    )


def found_bytes(root: str, method: str, exclude: tuple[str, ...] = ()) -> int | None:
    """Return the bytes of cold cache in the lists of a cold step; None if there are too many to read."""
    if method == GENERATIONS:
        return _in_generations(root, exclude)
    if method == LISTS:
        return _in_lists(root, exclude)
    return _below_limits(root, exclude) if method == LIMITS else 0


def _by_totals(memory: MemInfo, method: str) -> int:
    inactive = memory.inactive_file_bytes
    # An inactive list shorter than the active one is refilled from it: see cold_cache.list_step_bytes.
    return inactive if method == GENERATIONS else max(0, inactive - memory.active_file_bytes)


def _in_generations(root: str, exclude: tuple[str, ...]) -> int | None:
    place = cgroup_namespace.place_here(root)
    if place is None:
        return None
    page_bytes, mount = os.sysconf("SC_PAGE_SIZE"), cgroup.find_v2_mount(root)
    try:
        read = lru_gen_scan.pieces(root, CPU_LIMIT_S)
        found = cold_cache.scan_targets(read, place, page_bytes, exclude)
    except KernelFileError:
        return None
    if not found.complete:
        return None
    total = 0
    for target in eviction_plan.plan(found, 1 << 60, page_bytes):
        pages_bytes = target.pages * page_bytes
        if mount is not None:
            folder = f"{mount.rstrip('/')}{target.memcg_path.rstrip('/')}"
            pages_bytes = min(pages_bytes, memcg.unprotected_bytes(root, mount.rstrip("/"), folder))
        total += pages_bytes
    return total


def _in_lists(root: str, exclude: tuple[str, ...]) -> int | None:
    mount = cgroup.find_v2_mount(root)
    if mount is not None and memcg.all_leaves(root, mount, CGROUPS_LIMIT) is None:
        return None
    total = 0
    for folder in cold_cache.reclaimable_cgroups(root, exclude):
        try:
            lists = cold_cache.lists_of(root, folder)
        except KernelFileError:
            continue
        over = lists.inactive_bytes - lists.active_bytes
        if over > cold_cache.LIST_REST_BYTES:
            total += min(over, memcg.unprotected_bytes(root, mount or "", folder))
    return total


def _below_limits(root: str, exclude: tuple[str, ...]) -> int | None:
    mount = cgroup.find_v2_mount(root)
    if mount is None or memcg.all_leaves(root, mount, CGROUPS_LIMIT) is None:
        return None
    nodes, total = max(1, len(compaction.nodes(root))), 0
    for folder in memory_high.cgroups(root, exclude):
        try:
            lists = memcg.read_file_lists(root, folder)
        except KernelFileError:
            continue
        over = lists.inactive_bytes - memory_high.kept_bytes(lists.active_bytes, nodes)
        if over > memory_high.REST_BYTES:
            total += min(over, memcg.unprotected_bytes(root, mount, folder))
    return total
