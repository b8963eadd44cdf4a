"""How much cold cache a pass would take now. It asks nothing of the kernel, it only reads.

The kernel's totals call more cold than a pass finds: what excluded cgroups hold, what a list must keep, a
hundred lists with little each. So the lists are read that a pass would read. `status`, `picture` and the
answers to the host all say this number, and the host promises no more.
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

# A host may ask every few seconds: of more cgroups than this the kernel's totals must do.
CGROUPS_LIMIT = 256
CPU_LIMIT_S = 0.1


class CacheTerms(Record):
    """What bounds a pass besides the kernel: the method, both floors in bytes, and what is left alone.

    `is_judged`: the last cold step has judged all cache that there is; a pass takes none again so soon.
    """

    method: str = NO_METHOD
    cache_floor_bytes: int = 0
    learned_floor_bytes: int = 0
    exclude: tuple[str, ...] = ()
    is_judged: bool = False


def terms_of(said: dict[str, Any], now_s: float, memory: MemInfo) -> CacheTerms:
    """Return the terms that an agent's status names (status_file.terms_fields); nonsense is passed over."""
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
    """Return the terms where no agent runs: an agent of root's would go by the defaults."""
    method = cold_cache.probe(root)
    if method == NO_METHOD and os.geteuid() != 0:
        # This user may not ask the kernel, but an agent may: its totals tell the most.
        method = GENERATIONS
    return CacheTerms(method, AgentSettings().cache_floor_bytes)


def amount(said: object, key: str) -> int:
    """Return an amount of a status; 0 where it is not there, or is nonsense."""
    value = said.get(key) if isinstance(said, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _is_judged(judged: object, now_s: float, memory: MemInfo) -> bool:
    at_s = judged.get("at_s") if isinstance(judged, dict) else None
    if not isinstance(at_s, (int, float)) or isinstance(at_s, bool):
        return False
    last = cache_goal.JudgedCache(float(at_s), amount(judged, "cache_bytes"))
    return last.is_all_judged(memory.file_bytes, now_s, thresholds.least_bytes(memory))


def promise(root: str, terms: CacheTerms, memory: MemInfo) -> dict[str, object]:
    """Return what the host is told of the cache: what a pass would take, and both floors, in bytes."""
    return {
        "would_take_bytes": would_take_bytes(root, terms, memory),
        "cache_floor_bytes": terms.cache_floor_bytes,
        "learned_floor_bytes": terms.learned_floor_bytes,
    }


def would_take_bytes(root: str, terms: CacheTerms, memory: MemInfo) -> int:
    """Return the cache that a pass would take now at urgency 1, at most, in bytes.

    A pass begins by writing what is dirty, so dirty pages count.
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
    """Return the cold cache in the lists that a cold step would ask; None where they are too many to read."""
    if method == GENERATIONS:
        return _in_generations(root, exclude)
    if method == LISTS:
        return _in_lists(root, exclude)
    return _below_limits(root, exclude) if method == LIMITS else 0


def _by_totals(memory: MemInfo, method: str) -> int:
    inactive = memory.inactive_file_bytes
    # Below the active list the kernel refills the inactive one from it: cold_cache.list_step_bytes.
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
