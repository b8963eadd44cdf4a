"""Cold cache: the plans, and missing or refusing kernel files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import GUEST, plant
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.policy.observation import GENERATIONS, LISTS, NO_METHOD
from giveback_agent.release.cache import cold_cache, eviction_plan, lru_gen_training
from giveback_agent.release.cache.cold_cache import ColdResult
from giveback_agent.release.cache.eviction_plan import EvictionTarget
from giveback_kernel import files, lru_gen, lru_gen_scan, memcg
from giveback_kernel.errors import KernelFileError
from giveback_kernel.lru_gen import Generation, LruGen, NodeGenerations
from giveback_kernel.memcg import FileLists

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096
OPEN_PAGES = eviction_plan.OPEN_BYTES // PAGE
STALE_S = 3600.0
BYTES = st.integers(0, 1 << 45)
PAGES = st.integers(0, 1 << 30)


@st.composite
def lists(draw: st.DrawFn, memcg_id: int = 1) -> NodeGenerations:
    first = draw(st.integers(0, 1 << 40))
    generations = [
        Generation(first + n, draw(st.integers(0, 1 << 32)), draw(PAGES), draw(PAGES))
        for n in range(draw(st.integers(0, 4)))
    ]
    return NodeGenerations(memcg_id, "/a", 0, tuple(generations))


def one(*file_pages: int, age_ms: int = 0) -> NodeGenerations:
    generations = [Generation(n, age_ms, 0, pages) for n, pages in enumerate(file_pages)]
    return NodeGenerations(1, "/", 0, tuple(generations))


def target_of(of: NodeGenerations) -> EvictionTarget | None:
    return eviction_plan.target_of(of, PAGE, STALE_S)


@given(lists())
def test_the_two_youngest_generations_are_never_evicted(of: NodeGenerations) -> None:
    target = target_of(of)
    if target is None:
        return
    if target.age_first:
        assert target.up_to == of.generations[-2].number
    else:
        lru_gen.eviction_request(of, target.up_to, 0, 1)  # refuses what is too young
    assert target.pages > 0


@given(lists(), PAGES)
def test_a_write_takes_at_most_half_of_a_generation_that_must_stay_open(
    of: NodeGenerations, budget_pages: int
) -> None:
    target = target_of(of)
    if target is None:
        return
    pages = eviction_plan.eviction_pages(of, target, budget_pages, PAGE)
    there = sum(g.file_pages for g in of.generations if g.number <= target.up_to)
    assert 0 <= pages <= min(budget_pages, eviction_plan.STEP_LIMIT_BYTES // PAGE)
    if target.leave_pages and pages:
        assert there - pages >= target.leave_pages


@given(st.integers(OPEN_PAGES * 2 + 1, 1 << 26))
def test_halving_ends_with_the_generation_open(pages: int) -> None:
    target = target_of(one(0, pages, 0, 0))
    assert target is not None
    for _ in range(1 << 14):
        taken = eviction_plan.eviction_pages(one(0, pages, 0, 0), target, 1 << 40, PAGE)
        if taken == 0:
            break
        pages -= taken
    assert pages == OPEN_PAGES


def test_an_older_generation_goes_whole_and_alone() -> None:
    target = target_of(one(5000, 90000, 10, 10))
    assert target == EvictionTarget(1, "/", 0, 0, 5000)


def test_remainders_of_older_generations_go_with_the_third_youngest() -> None:
    target = target_of(one(100, 90000, 10, 10))
    assert target == EvictionTarget(1, "/", 0, 1, 90100 - OPEN_PAGES, OPEN_PAGES)


def test_what_was_kept_comes_up_again_only_when_stale() -> None:
    assert target_of(one(0, OPEN_PAGES, 50000, 10)) is None
    target = target_of(one(0, OPEN_PAGES, 50000, 10, age_ms=int(STALE_S * 1000)))
    assert target == EvictionTarget(1, "/", 0, 2, 50000 - OPEN_PAGES, OPEN_PAGES, age_first=True)


@given(lists(), st.booleans())
def test_where_new_cache_goes_to_the_fourth_youngest_the_third_is_kept(
    of: NodeGenerations, stale: bool
) -> None:
    target = eviction_plan.target_of(of, PAGE, 0 if stale else eviction_plan.STALE_AFTER_S, 4)
    if target is None:
        return
    numbers = [generation.number for generation in of.generations]
    assert target.leave_pages == OPEN_PAGES
    assert target.pages > 0
    # The kept ones only by a new generation, after which they are the fourth-youngest.
    assert target.up_to == numbers[-3] if target.age_first else target.up_to in numbers[:-3]


def test_a_new_list_of_such_a_kernel_is_evicted_where_its_cache_is() -> None:
    fresh, kept = one(9000, 0, 0, 0), one(OPEN_PAGES, 9000, 0, 0)
    plan = eviction_plan.plan(LruGen((fresh, kept)), 1 << 40, PAGE, 4 * 3600.0, 4)
    assert [(target.up_to, target.pages) for target in plan] == [
        (fresh.generations[0].number, 9000 - OPEN_PAGES)
    ]
    (again,) = eviction_plan.plan(LruGen((kept,)), 1 << 40, PAGE, 0.0, 4)
    assert again.age_first


@pytest.mark.parametrize(
    ("enabled", "goes"), [("hugetlb misc\n", True), ("", False), ("cpu pids\n", False)]
)
def test_a_cgroup_that_may_hold_no_process_needs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, goes: bool
) -> None:
    plant_cgroups(tmp_path, "machine.slice")
    group = tmp_path / "sys/fs/cgroup/machine.slice"
    (group / "cgroup.subtree_control").write_text(enabled)
    (group / "memory.current").write_text("1000000000")
    lru = tmp_path / "sys/kernel/debug/lru_gen"
    lru.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f" {n} 90000 0 {pages}\n" for n, pages in enumerate((0, 30000, 0, 0)))
    lru.write_text(f"memcg 7 /machine.slice\n node 0\n{rows}")
    meminfo = tmp_path / "proc/meminfo"
    meminfo.parent.mkdir(parents=True, exist_ok=True)
    lines = GUEST["/proc/meminfo"].decode().splitlines()
    clean = ["Dirty: 0 kB" if line.startswith("Dirty:") else line for line in lines]
    meminfo.write_text("\n".join(clean) + "\n")
    asked: list[str] = []
    monkeypatch.setattr(lru_gen, "write_request", lambda _root, request: asked.append(request))
    result = cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 1 << 40, str(tmp_path / "none"))
    assert bool(asked) is goes
    assert bool(result.untrained_bytes) is not goes


@given(st.lists(lists(), max_size=5), PAGES)
def test_the_plan_stops_at_the_amount(several: list[NodeGenerations], max_pages: int) -> None:
    targets = eviction_plan.plan(LruGen(tuple(several)), max_pages, PAGE)
    assert sum(target.pages for target in targets[:-1]) < max(1, max_pages)
    assert list(targets) == sorted(targets, key=lambda target: -target.pages)


@given(BYTES, BYTES, BYTES, BYTES, BYTES)
def test_the_active_list_is_never_the_longer_one_after_a_step(
    active: int, inactive: int, dirty: int, writeback: int, budget: int
) -> None:
    lists_ = FileLists(active, inactive, dirty, writeback)
    step = cold_cache.list_step_bytes(lists_, budget)
    assert 0 <= step <= min(budget, eviction_plan.STEP_LIMIT_BYTES)
    if step:
        # The kernel reclaims up to 1.8 times the requested amount.
        assert inactive - 1.8 * step >= active
        assert step <= inactive - dirty - writeback


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_memory_stat_is_read_or_refused(data: bytes) -> None:
    try:
        memcg.parse(data)
    except KernelFileError:
        return


def test_memory_stat_gives_the_lists() -> None:
    data = b"anon 1\nfile 99\nfile_dirty 3\nfile_writeback 4\ninactive_file 7\nactive_file 5\n"
    assert memcg.parse(data) == FileLists(5, 7, 3, 4)
    with pytest.raises(KernelFileError, match="inactive_file is missing"):
        memcg.parse(b"active_file 5\n")


def test_the_inactive_list_of_a_node(tmp_path: Path) -> None:
    stat = b"inactive_file 700\nactive_file 5\n"
    root = plant(tmp_path, {"/c/memory.stat": stat})
    assert memcg.inactive_file_bytes(root, "/c", 0) == 700  # a kernel without NUMA
    with pytest.raises(KernelFileError):
        memcg.inactive_file_bytes(root, "/c", 1)
    plant(tmp_path, {"/c/memory.numa_stat": b"file N0=9 N1=9\ninactive_file N0=4 N1=6 N11=7\n"})
    assert [memcg.inactive_file_bytes(root, "/c", node) for node in (0, 1, 11)] == [4, 6, 7]
    with pytest.raises(KernelFileError, match="node 2"):
        memcg.inactive_file_bytes(root, "/c", 2)


def plant_cgroups(root: Path, *folders: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(
        "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    )
    (root / "proc/self/cgroup").write_text("0::/\n")
    for folder in folders:
        path = root / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.stat").write_text(f"inactive_file {64 << 20}\nactive_file {16 << 20}\n")
        (path / "memory.reclaim").write_text("")


def plant_generations(root: Path) -> None:
    for path, text in (
        ("sys/kernel/mm/lru_gen/enabled", "0x0007\n"),
        (
            "sys/kernel/debug/lru_gen",
            "memcg 1 /\n node 0\n 0 9 0 0\n 1 9 0 9000\n 2 9 0 0\n 3 9 0 0\n",
        ),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_probe_takes_the_best_there_is(tmp_path: Path) -> None:
    assert cold_cache.probe(str(tmp_path)) == NO_METHOD
    plant_cgroups(tmp_path, "", "a.slice", "a.slice/b.service")
    assert cold_cache.probe(str(tmp_path)) == LISTS
    plant_generations(tmp_path)
    assert cold_cache.probe(str(tmp_path)) == GENERATIONS
    (tmp_path / "sys/kernel/mm/lru_gen/enabled").write_text("0x0000\n")
    assert cold_cache.probe(str(tmp_path)) == LISTS


def test_only_leaves_are_asked_and_within_the_amount(tmp_path: Path) -> None:
    plant_cgroups(tmp_path, "", "a.slice", "a.slice/b.service")
    result = cold_cache.reclaim_cold(str(tmp_path), LISTS, 30 << 20)
    leaf = tmp_path / "sys/fs/cgroup/a.slice/b.service/memory.reclaim"
    assert " swappiness=0" in leaf.read_text()
    assert (tmp_path / "sys/fs/cgroup/memory.reclaim").read_text() == ""
    assert result == ColdResult(asked_bytes=30 << 20, steps=2)


def test_generations_that_cannot_be_trained_are_left_alone(tmp_path: Path) -> None:
    plant_cgroups(tmp_path, "")
    plant_generations(tmp_path)
    lru = (tmp_path / "sys/kernel/debug/lru_gen").read_text()
    result = cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 1 << 40)
    assert result == ColdResult(untrained_bytes=(9000 - OPEN_PAGES) * PAGE)
    assert (tmp_path / "sys/kernel/debug/lru_gen").read_text() == lru


def test_a_cgroup_that_has_ended_is_no_target() -> None:
    # It was once counted as untrained, and then the cache of ended cgroups was not reclaimed either.
    generations = (
        Generation(1, 9, 0, 9000), Generation(2, 9, 0, 0), Generation(3, 9, 0, 0)
    )  # fmt: skip
    ended = NodeGenerations(0, "/machine.slice/gone.scope", 0, generations)
    assert eviction_plan.target_of(ended, PAGE, STALE_S) is None
    alone = NodeGenerations(0, "/", 0, generations)
    assert eviction_plan.target_of(alone, PAGE, STALE_S) is not None


def plant_namespace(root: Path) -> None:
    """A distribution of WSL with isolateDistroCgroup: its /sys/fs/cgroup is /wsl-user/distro-27."""
    plant_cgroups(root, "", "system.slice", "system.slice/docker.service")
    top = root / "sys/fs/cgroup"
    (top / "cgroup.type").write_text("domain\n")
    (top / "memory.max").write_text("max\n")
    plant_generations(root)
    pages = (64 << 20) // PAGE, (16 << 20) // PAGE
    text = "memcg 1 /\n node 0\n 0 9 0 0\n 1 9 0 9000\n 2 9 0 0\n 3 9 0 0\n"
    for number, place in ((20, "/wsl-user/distro-3"), (40, "/wsl-user/distro-27")):
        text += f"memcg {number} {place}/system.slice/docker.service\n node 0\n"
        old, kept = pages if number == 40 else (90000, 0)
        text += f" 0 9 0 0\n 1 9 0 {old}\n 2 9 0 {kept}\n 3 9 0 0\n"
    (root / "sys/kernel/debug/lru_gen").write_text(text)


def test_in_a_cgroup_namespace_its_own_cgroups_are_asked(tmp_path: Path) -> None:
    plant_namespace(tmp_path)
    root, lru = str(tmp_path), tmp_path / "sys/kernel/debug/lru_gen"
    assert cold_cache.probe(root) == GENERATIONS
    untrained = cold_cache.reclaim_cold(root, GENERATIONS, 1 << 40)
    assert untrained.untrained_bytes == (64 << 20) - OPEN_PAGES * PAGE
    plant(tmp_path, {"/proc/meminfo": GUEST["/proc/meminfo"].replace(b"378780 kB", b"     0 kB")})
    taken = cold_cache.reclaim_cold(root, GENERATIONS, 1 << 40, untrained=True)
    assert taken.steps == 1
    assert lru.read_text().startswith("- 40 0 1 0 ")  # not the larger one of distro-3


def test_in_a_namespace_whose_place_is_unknown_the_lists_are_asked(tmp_path: Path) -> None:
    plant_namespace(tmp_path)
    (tmp_path / "sys/kernel/debug/lru_gen").write_text("memcg 1 /\n node 0\n 0 9 0 0\n")
    assert cold_cache.probe(str(tmp_path)) == LISTS
    result = cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 10 << 20)
    assert (result.asked_bytes, result.steps) == (10 << 20, 1)
    leaf = tmp_path / "sys/fs/cgroup/system.slice/docker.service/memory.reclaim"
    assert leaf.read_text().startswith(f"{10 << 20} ")


def test_what_a_budget_leaves_unread_is_asked_by_its_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_cgroups(tmp_path, "", "a.slice", "a.slice/b.service")
    plant_generations(tmp_path)
    monkeypatch.setattr(lru_gen_scan, "pieces", lambda _root: iter([b"memcg 1 /\n node 0\n"]))
    result = cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 10 << 20)
    assert (result.asked_bytes, result.steps) == (10 << 20, 1)


def test_a_long_lru_gen_is_not_read_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_cgroups(tmp_path, "", "a.slice")
    plant_generations(tmp_path)
    plant(tmp_path, {"/proc/meminfo": GUEST["/proc/meminfo"].replace(b"378780 kB", b"     0 kB")})
    group = tmp_path / "sys/fs/cgroup/a.slice"
    lru = "memcg 7 /a.slice\n node 0\n 0 9 0 0\n 1 9 0 9000\n 2 9 0 0\n 3 9 0 0\n"
    (tmp_path / "sys/kernel/debug/lru_gen").write_text(lru + lru.replace("9000", "0") * 5000)
    (group / "memory.numa_stat").write_text(f"inactive_file N0={9000 * PAGE}\n")
    reads: list[int] = []
    real, inactive = lru_gen_scan.pieces, [9000]

    def counted(root: str, cpu_limit_s: float = 60.0) -> Iterator[bytes]:
        reads.append(1)
        return real(root, cpu_limit_s)

    def evict(root: str, request: str) -> None:
        inactive[0] -= int(request.rsplit(maxsplit=1)[-1])
        stat = f"inactive_anon N0=5\ninactive_file N0={inactive[0] * PAGE} N1=0\n"
        (group / "memory.numa_stat").write_text(stat)

    monkeypatch.setattr(lru_gen_scan, "pieces", counted)
    monkeypatch.setattr(lru_gen, "write_request", evict)
    result = cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 1 << 40, untrained=True)
    assert result.steps > 3
    assert len(reads) == 1
    behind = 64 * (os.cpu_count() or 1)
    assert OPEN_PAGES <= inactive[0] <= OPEN_PAGES + behind + 2 * cold_cache.LEAST_STEP_PAGES


def test_a_kernel_that_says_nothing_ends_the_pass(tmp_path: Path) -> None:
    for method in (GENERATIONS, LISTS, NO_METHOD):
        assert cold_cache.reclaim_cold(str(tmp_path), method, 1 << 40) == ColdResult()
    plant_cgroups(tmp_path, "")
    (tmp_path / "sys/fs/cgroup/memory.stat").write_text("garbage")
    assert cold_cache.reclaim_cold(str(tmp_path), LISTS, 1 << 40) == ColdResult()


def test_unwanted_before_the_first_write_means_no_write(tmp_path: Path) -> None:
    plant_cgroups(tmp_path, "")
    result = cold_cache.reclaim_cold(str(tmp_path), LISTS, 1 << 40, wanted=lambda: False)
    assert result == ColdResult()


def test_training_that_fails_returns_0_and_leaves_no_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    assert (
        lru_gen_training.train(str(tmp_path), "/", str(scratch), lambda _: None)
        == lru_gen_training.Training()
    )
    scratch.mkdir()
    assert (
        lru_gen_training.train(str(tmp_path), "/gone", str(scratch), lambda _: None)
        == lru_gen_training.Training()
    )
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("dirty_kib", "written"), [(0, True), (9000 * 4 // 4, False)])
def test_a_generation_that_is_largely_dirty_is_left_as_it_is(
    tmp_path: Path, dirty_kib: int, written: bool
) -> None:
    plant_cgroups(tmp_path, "")
    plant_generations(tmp_path)
    path = tmp_path / "proc/meminfo"
    text = GUEST["/proc/meminfo"].decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"Dirty: {dirty_kib} kB" if x.startswith("Dirty:") else x for x in text.splitlines()]
    path.write_text("\n".join(lines) + "\n")
    lru = (tmp_path / "sys/kernel/debug/lru_gen").read_text()
    cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 1 << 40, untrained=True)
    assert ((tmp_path / "sys/kernel/debug/lru_gen").read_text() != lru) == written


@pytest.mark.parametrize(
    ("may_swap", "active_mib", "is_asked"),
    [(False, 10, True), (False, 40, False), (True, 40, True)],
)
def test_an_old_kernel_is_not_asked_where_it_could_swap_programs_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    may_swap: bool,
    active_mib: int,
    is_asked: bool,
) -> None:
    plant_cgroups(tmp_path, "", "a.slice")
    lists = memcg.FileLists(active_mib << 20, 60 << 20, 0, 0)
    monkeypatch.setattr(memcg, "read_file_lists", lambda *_: lists)
    asked: list[str] = []

    def old_kernel(root: str, path: str, text: str) -> None:
        if "swappiness" in text:
            raise KernelFileError(path, "Invalid argument", errno.EINVAL)
        asked.append(text)

    monkeypatch.setattr(files, "write", old_kernel)
    cold_cache.reclaim_cold(str(tmp_path), LISTS, 64 << 20, may_swap=may_swap)
    assert bool(asked) is is_asked


def test_what_an_ended_cgroup_left_is_no_target() -> None:
    """It has no id to name: counted as untrained, it would keep ended_cgroups from reclaiming it."""
    ended = NodeGenerations(0, "/gone.service", 0, one(100_000, 0, 0, 0).generations)
    assert target_of(ended) is None
    assert target_of(NodeGenerations(0, "/", 0, ended.generations)) is not None


@pytest.mark.parametrize(("protected", "written"), [("0", True), ("max", False)])
@pytest.mark.parametrize("name", ["memory.min", "memory.low"])
def test_what_is_protected_stays(tmp_path: Path, protected: str, written: bool, name: str) -> None:
    """With both methods: memory.reclaim of the cgroup itself and lru_gen ignore it."""
    plant_cgroups(tmp_path, "", "a.slice", "a.slice/b.service")
    plant_generations(tmp_path)
    lru = tmp_path / "sys/kernel/debug/lru_gen"
    lru.write_text(lru.read_text().replace("memcg 1 /", "memcg 1 /a.slice/b.service"))
    before = lru.read_text()
    (tmp_path / "sys/fs/cgroup/a.slice" / name).write_text(f"{protected}\n")
    memory = GUEST["/proc/meminfo"].decode().splitlines()
    clean = ["Dirty: 0 kB" if line.startswith("Dirty:") else line for line in memory]
    (tmp_path / "proc/meminfo").write_text("\n".join(clean) + "\n")
    cold_cache.reclaim_cold(str(tmp_path), LISTS, 1 << 40)
    leaf = tmp_path / "sys/fs/cgroup/a.slice/b.service/memory.reclaim"
    assert bool(leaf.read_text()) is written
    cold_cache.reclaim_cold(str(tmp_path), GENERATIONS, 1 << 40, untrained=True)
    assert (lru.read_text() != before) is written
