"""How much a pass would reclaim: by the lists that it would read, and by its floors."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_guests import memory
from agent_kernel_samples import plant
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy.observation import GENERATIONS, LIMITS, LISTS, NO_METHOD
from giveback_agent.release.cache import cold_survey, eviction_plan, memory_high
from giveback_agent.release.cache.cold_survey import CacheTerms
from giveback_kernel.record import replace

MIB = 1 << 20
PAGE = 4096
MOUNT = "/sys/fs/cgroup"
MOUNTINFO = b"1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
NOW = memory(cache=600)


def lru_gen(sizes: dict[str, tuple[int, int, int]]) -> bytes:
    """Generations of cgroups: file MiB, the oldest first; the two youngest are not evicted."""
    lines = []
    for number, (path, mibs) in enumerate(sizes.items(), 1):
        lines += [f"memcg {number:>5} {path}", " node     0"]
        lines += [
            f"   {seq:>8} {9000 - seq:>10} {0:>10} {mib * MIB // PAGE:>11} "
            for seq, mib in enumerate(mibs)
        ]
    return "\n".join([*lines, ""]).encode()


def stat(active_mib: int, inactive_mib: int) -> bytes:
    return b"active_file %d\ninactive_file %d\n" % (active_mib * MIB, inactive_mib * MIB)


def plant_generations(root: Path, sizes: dict[str, tuple[int, int, int]], **more: bytes) -> str:
    files = {"/sys/kernel/debug/lru_gen": lru_gen(sizes), "/proc/self/mountinfo": MOUNTINFO}
    files["/proc/self/cgroup"] = b"0::/\n"
    return plant(root, {**files, **{f"{MOUNT}/{name}": text for name, text in more.items()}})


def take(root: str, terms: CacheTerms) -> int:
    return cold_survey.would_take_bytes(root, terms, NOW)


def test_what_many_small_lists_hold_is_not_promised(tmp_path: Path) -> None:
    open_mib = eviction_plan.OPEN_BYTES // MIB
    sizes = {"/big": (100, 10, 10), **{f"/small{n}": (open_mib, 1, 1) for n in range(50)}}
    root = plant_generations(tmp_path, sizes)
    # The kernel's totals call 200 MiB inactive.
    assert take(root, CacheTerms(GENERATIONS)) == (100 - open_mib) * MIB


def test_excluded_and_protected_cgroups_promise_nothing(tmp_path: Path) -> None:
    sizes = {"/db.service": (100, 0, 0), "/a": (80, 0, 0), "/b": (60, 0, 0)}
    root = plant_generations(
        tmp_path,
        sizes,
        **{"a/memory.low": b"max\n", "a/memory.current": b"%d\n" % (90 * MIB)},
    )
    terms = CacheTerms(GENERATIONS, exclude=("db.service",))
    assert take(root, terms) == 60 * MIB - eviction_plan.OPEN_BYTES


def test_on_two_lists_each_cgroup_keeps_its_own_active_list(tmp_path: Path) -> None:
    files = {"/proc/self/mountinfo": MOUNTINFO, "/proc/self/cgroup": b"0::/\n"}
    for name, text in {"a": stat(0, 200), "b": stat(300, 100)}.items():
        files[f"{MOUNT}/{name}/memory.stat"] = text
        files[f"{MOUNT}/{name}/memory.reclaim"] = b""
    files[f"{MOUNT}/memory.stat"] = stat(300, 300)
    files[f"{MOUNT}/memory.reclaim"] = b""
    root = plant(tmp_path, files)
    # By the sums of both, nothing would be left to reclaim.
    assert take(root, CacheTerms(LISTS)) == 200 * MIB


def test_a_kernel_without_reclaim_is_asked_by_its_limits(tmp_path: Path) -> None:
    files = {"/proc/self/mountinfo": MOUNTINFO, "/proc/self/cgroup": b"0::/\n"}
    files[f"{MOUNT}/memory.stat"] = stat(0, 200)
    files[f"{MOUNT}/a/memory.stat"] = stat(50, 200)
    files[f"{MOUNT}/a/memory.high"] = b"max\n"
    root = plant(tmp_path, files)
    assert take(root, CacheTerms(LIMITS)) == 150 * MIB
    assert memory_high.REST_BYTES < 150 * MIB


@pytest.mark.parametrize(
    ("method", "expected_mib"), [(GENERATIONS, 600), (LISTS, 600), (NO_METHOD, 0)]
)
def test_the_totals_stand_in_for_lists_that_cannot_be_read(
    tmp_path: Path, method: str, expected_mib: int
) -> None:
    files = {"/proc/self/mountinfo": MOUNTINFO, f"{MOUNT}/memory.stat": stat(0, 0)}
    if method == LISTS:
        many = range(cold_survey.CGROUPS_LIMIT + 1)
        files |= {f"{MOUNT}/c{number}/memory.stat": stat(0, 1) for number in many}
    root = plant(tmp_path, files)
    assert take(root, CacheTerms(method)) == expected_mib * MIB


def test_floors_and_what_was_judged_bound_the_promise(tmp_path: Path) -> None:
    root = plant_generations(tmp_path, {"/": (580, 0, 20)})
    found = 580 * MIB - eviction_plan.OPEN_BYTES
    assert take(root, CacheTerms(GENERATIONS)) == found
    assert take(root, CacheTerms(GENERATIONS, 64 * MIB)) == (600 - 64) * MIB
    assert take(root, CacheTerms(GENERATIONS, 64 * MIB, 100 * MIB)) == found - 100 * MIB
    judged = {"at_s": 10.0, "cache_bytes": 590 * MIB}
    said = {"cold_method": GENERATIONS, "judged": judged}
    # A pass reclaims none again until there is new cache, or an hour has passed.
    assert take(root, cold_survey.terms_of(said, 100.0, NOW)) == 0
    assert take(root, cold_survey.terms_of(said, 4000.0, NOW)) == found
    grown = {**said, "judged": {**judged, "cache_bytes": 500 * MIB}}
    assert take(root, cold_survey.terms_of(grown, 100.0, NOW)) == found


@given(
    st.dictionaries(
        st.sampled_from(["exclude", "cold_method", "cache_floor_bytes", "judged"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
        | st.dictionaries(st.sampled_from(["at_s", "cache_bytes"]), st.none() | st.floats()),
    )
)  # fmt: skip
def test_any_status_gives_terms(said: dict[str, object]) -> None:
    terms = cold_survey.terms_of(said, 5.0, NOW)
    assert terms.cache_floor_bytes >= 0
    assert 0 <= cold_survey.would_take_bytes("/nowhere", replace(terms, method=NO_METHOD), NOW) == 0


@pytest.mark.parametrize("method", [GENERATIONS, LISTS, LIMITS, NO_METHOD])
def test_the_host_is_told_whether_it_may_name_an_amount(tmp_path: Path, method: str) -> None:
    said = cold_survey.promise(str(tmp_path), CacheTerms(method), NOW)
    assert said["cache_in_parts"] == (method != NO_METHOD)
