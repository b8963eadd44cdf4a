"""Cold cache by memory.high: bounded steps, hot lists left alone, and the limit always restored."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from agent_killed_at_line import killed_at_line
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy.observation import LIMITS, LISTS, NO_METHOD
from giveback_agent.release import steps
from giveback_agent.release.cache import cold_cache, live_protection, memory_high
from giveback_agent.release.cache.memory_high import Ended, HighResult
from giveback_agent.runtime import memory_limits
from giveback_kernel import files
from giveback_kernel.memcg import FileLists

MIB = 1 << 20
PAGE = memory_high.PAGE_BYTES
BYTES = st.integers(0, 1 << 45)
MOUNT = "/sys/fs/cgroup"


class OldKernel:
    """A tree of cgroups that reclaims like 5.10 at a write to memory.high: `times` the requested amount."""

    def __init__(self, root: Path, times: float = 1.0) -> None:
        self.root, self.times = root, times
        self.written: list[tuple[str, str]] = []
        for path, text in {
            "/proc/self/mountinfo": f"25 1 0:22 / {MOUNT} rw - cgroup2 cgroup2 rw\n",
            "/proc/self/cgroup": "0::/\n",
            "/proc/swaps": "Filename Type Size Used Priority\n",
        }.items():
            self.put(path, text)

    def put(self, path: str, text: str) -> None:
        full = self.root / path.lstrip("/")
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)

    def add(self, path: str, active: int, inactive: int, high: str = "max", **more: int) -> str:
        """Add a cgroup with these MiB on its lists; return its folder."""
        folder = f"{MOUNT}/{path}".rstrip("/")
        self.lists(folder, active * MIB, inactive * MIB, more.get("refaults", 0))
        self.put(f"{folder}/memory.high", f"{high}\n")
        self.put(f"{folder}/memory.low", "0\n")
        dying = more.get("dying", 0)
        self.put(f"{folder}/cgroup.stat", f"nr_descendants 3\nnr_dying_descendants {dying}\n")
        self.put(f"{folder}/cgroup.events", f"populated {more.get('populated', 1)}\nfrozen 0\n")
        return folder

    def lists(self, folder: str, active: int, inactive: int, refaults: int = 0) -> None:
        stat = (
            f"active_file {active}\ninactive_file {inactive}\nworkingset_refault_file {refaults}\n"
        )
        self.put(f"{folder}/memory.stat", stat)
        self.put(f"{folder}/memory.current", f"{active + inactive}\n")

    def high(self, folder: str) -> str:
        return (self.root / f"{folder}/memory.high".lstrip("/")).read_text().splitlines()[0]

    def write(self, root: str, path: str, text: str) -> None:
        del root
        folder, _, name = path.rpartition("/")
        self.written.append((path, text.strip()))
        self.put(path, text)
        if name == "memory.high" and text.strip() != "max":
            self.reclaim(folder, int(text))

    def reclaim(self, folder: str, high: int) -> None:
        stat = (self.root / f"{folder}/memory.stat".lstrip("/")).read_text().split()
        active, inactive, refaults = int(stat[1]), int(stat[3]), int(stat[5])
        over = int(max(0, active + inactive - high) * self.times)
        self.lists(folder, active, max(0, inactive - over), refaults)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OldKernel:
    old = OldKernel(tmp_path)
    monkeypatch.setattr(files, "write", old.write)
    for limit in ("CGROUP_S", "RUN_S"):  # a fake file is slower than a kernel's
        monkeypatch.setattr(memory_high, limit, 600.0)
    old.add("", 0, 0)
    (tmp_path / "sys/fs/cgroup/memory.high").unlink()
    return old


def inactive_mib(kernel: OldKernel, folder: str) -> float:
    stat = (kernel.root / f"{folder}/memory.stat".lstrip("/")).read_text().split()
    return int(stat[3]) / MIB


@given(BYTES, BYTES, st.booleans())
def test_a_step_is_bounded_by_what_the_cgroup_holds(wanted: int, held: int, empty: bool) -> None:
    step = memory_high.step_bytes(wanted, held, empty)
    assert 0 <= step <= min(wanted, memory_high.STEP_MOST_BYTES)
    assert step % PAGE == 0
    assert step < held or step == 0
    if not empty:
        assert step <= max(memory_high.STEP_LEAST_BYTES, held // memory_high.STEP_DIVISOR)


def is_low(active: int, inactive: int, nodes: int) -> bool:
    """inactive_is_low() of mm/vmscan.c, with the lists divided equally between the nodes."""
    gib = (active + inactive) // nodes >> 30
    return inactive * (math.isqrt(10 * gib) if gib else 1) < active


@given(BYTES, BYTES, BYTES, BYTES, st.integers(1, 8))
def test_only_clean_cache_is_cold_and_the_inactive_list_never_gets_low(
    active: int, inactive: int, dirty: int, writeback: int, nodes: int
) -> None:
    cold = memory_high.cold_bytes(FileLists(active, inactive, dirty, writeback), nodes)
    assert cold >= 0
    if cold:
        assert not is_low(active, inactive - cold, nodes)
        assert cold <= inactive - dirty - writeback


def test_long_lists_may_get_shorter_than_the_active_one() -> None:
    assert memory_high.kept_bytes(400 * MIB, 1) == 400 * MIB
    assert memory_high.kept_bytes(10 << 30, 1) == pytest.approx((10 << 30) / 10, rel=0.01)
    assert memory_high.kept_bytes(10 << 30, 16) == 10 << 30


@pytest.mark.parametrize("times", [0.6, 1.0, 1.7])
def test_cold_cache_goes_down_to_the_active_lists_size(kernel: OldKernel, times: float) -> None:
    kernel.times = times
    app = kernel.add("a.slice/app", 40, 200)
    kernel.add("a.slice", 40, 200)
    result = memory_high.reclaim_cold(str(kernel.root), 1 << 40)
    assert 40 <= inactive_mib(kernel, app) <= 43
    assert result.refused == ""
    assert kernel.high(app) == "max"
    # The parent's limit would reclaim from all cgroups below it: only the leaf's is lowered.
    assert {path for path, _ in kernel.written} == {f"{app}/memory.high"}
    assert not memory_limits.HIGH.is_saved(str(kernel.root))


def test_no_more_is_taken_than_asked_for_and_nothing_unwanted(kernel: OldKernel) -> None:
    app = kernel.add("app", 0, 200)
    memory_high.reclaim_cold(str(kernel.root), 10 * MIB)
    assert inactive_mib(kernel, app) == 190
    assert memory_high.reclaim_cold(str(kernel.root), 1 << 40, lambda: False) == HighResult()
    assert inactive_mib(kernel, app) == 190


def test_a_cgroup_whose_pages_come_back_is_left_alone(
    kernel: OldKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = kernel.add("app", 0, 200)

    def reclaim_and_refault(folder: str, high: int) -> None:
        OldKernel.reclaim(kernel, folder, high)
        kernel.lists(folder, 0, int(inactive_mib(kernel, folder) * MIB), refaults=1000)

    monkeypatch.setattr(kernel, "reclaim", reclaim_and_refault)
    assert memory_high.reclaim_cold(str(kernel.root), 1 << 40).steps == 1
    assert kernel.high(app) == "max"


@pytest.mark.parametrize("times", [0.0, 0.2])
def test_a_cgroup_that_gives_nothing_has_one_step(kernel: OldKernel, times: float) -> None:
    """memory.min, or pages that cannot be reclaimed."""
    kernel.times = times
    kernel.add("app", 0, 200)
    assert memory_high.reclaim_cold(str(kernel.root), 1 << 40).steps == 1


def test_a_limit_that_is_at_work_is_left_alone_and_a_wider_one_comes_back(
    kernel: OldKernel,
) -> None:
    tight = kernel.add("tight", 0, 100, high=str(90 * MIB))
    wide = kernel.add("wide", 0, 100, high=str(500 * MIB))
    memory_high.reclaim_cold(str(kernel.root), 1 << 40)
    assert (kernel.high(tight), kernel.high(wide)) == (str(90 * MIB), str(500 * MIB))
    assert inactive_mib(kernel, tight) == 100
    assert inactive_mib(kernel, wide) < 4


def test_what_somebody_else_sets_meanwhile_stays(
    kernel: OldKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = kernel.add("app", 0, 100)

    def other_hand(folder: str, high: int) -> None:
        OldKernel.reclaim(kernel, folder, high)
        kernel.put(f"{folder}/memory.high", "123\n")

    monkeypatch.setattr(kernel, "reclaim", other_hand)
    memory_high.reclaim_cold(str(kernel.root), 1 << 40)
    assert kernel.high(app) == "123"


def test_a_cgroup_that_vanishes_in_a_step_ends_nothing_else(
    kernel: OldKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = kernel.add("gone", 0, 200), kernel.add("stays", 0, 100)

    def vanish(folder: str, high: int) -> None:
        if folder == gone:
            for file in (kernel.root / gone.lstrip("/")).iterdir():
                file.unlink()
        else:
            OldKernel.reclaim(kernel, folder, high)

    monkeypatch.setattr(kernel, "reclaim", vanish)
    memory_high.reclaim_cold(str(kernel.root), 1 << 40)
    assert inactive_mib(kernel, stays) < 4


@pytest.mark.parametrize("protected", ["app", "a.slice"])
@pytest.mark.parametrize("name", ["memory.min", "memory.low"])
def test_what_is_protected_stays(kernel: OldKernel, protected: str, name: str) -> None:
    path = "a.slice/app" if protected == "app" else protected
    kernel.add("a.slice", 0, 200)
    app = kernel.add("a.slice/app", 0, 200)
    kernel.put(f"{MOUNT}/{path}/{name}", f"{150 * MIB}\n")
    memory_high.reclaim_cold(str(kernel.root), 20 * MIB)
    assert inactive_mib(kernel, app) == 180
    kernel.put(f"{MOUNT}/{path}/{name}", "max\n")
    assert memory_high.reclaim_cold(str(kernel.root), 1 << 40).steps == 0


def test_one_cgroup_does_not_take_the_time_of_all(
    kernel: OldKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.add("first", 0, 200)
    kernel.add("second", 0, 100)
    monkeypatch.setattr(memory_high, "CGROUP_S", 0.0)
    assert memory_high.reclaim_cold(str(kernel.root), 1 << 40).steps == 0


def test_what_ended_below_a_live_cgroup_is_found_by_sums(kernel: OldKernel) -> None:
    kernel.add("a.slice", 30, 200, dying=1)
    kernel.add("a.slice/app", 10, 60)
    kernel.add("a.slice/other", 20, 10)
    empty = kernel.add("b.slice", 0, 50, populated=0)
    kernel.add("c.slice", 40, 20)
    kernel.add("own.slice", 90, 90)  # pages of its own, from before it had a child
    kernel.add("own.slice/app", 0, 10)
    found = memory_high.find_ended(str(kernel.root))
    assert found == (Ended(f"{MOUNT}/a.slice", 130 * MIB), Ended(empty, 50 * MIB, is_empty=True))
    assert steps.ended_bytes(str(kernel.root), LIMITS) == 180 * MIB
    # The sums would miss live cgroups.
    kernel.put(f"{MOUNT}/cgroup.stat", "nr_descendants 5000\nnr_dying_descendants 9\n")
    assert memory_high.find_ended(str(kernel.root)) == ()


def test_ended_cgroups_cache_goes_while_live_ones_are_protected(
    kernel: OldKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = kernel.add("a.slice", 10, 160, dying=1)
    app = kernel.add("a.slice/app", 10, 60)
    protected: list[str] = []

    def reclaim(folder: str, high: int) -> None:
        protected.append((kernel.root / f"{app}/memory.low".lstrip("/")).read_text().strip())
        OldKernel.reclaim(kernel, folder, high)

    monkeypatch.setattr(kernel, "reclaim", reclaim)
    memory_high.reclaim_ended(str(kernel.root), 1 << 40)
    assert set(protected) == {str(70 * MIB)}
    assert 60 <= inactive_mib(kernel, parent) <= 64
    assert kernel.high(parent) == "max"
    assert not live_protection.restore(str(kernel.root))
    assert (kernel.root / f"{app}/memory.low".lstrip("/")).read_text() == "0\n"


def test_no_swap_no_memory_reclaim_and_limits_are_the_method(kernel: OldKernel) -> None:
    root = str(kernel.root)
    assert cold_cache.probe(root) == NO_METHOD
    kernel.add("app", 0, 10)
    assert cold_cache.probe(root) == LIMITS
    kernel.put("/proc/swaps", "Filename Type Size Used Priority\n/dev/vdb partition 1000 0 -2\n")
    assert cold_cache.probe(root) == NO_METHOD
    assert cold_cache.probe(root, swap=True) == LIMITS
    before = len(kernel.written)
    cold_cache.reclaim_cold(root, LIMITS, 1 << 40, may_swap=False)
    assert len(kernel.written) == before
    kernel.put(f"{MOUNT}/memory.reclaim", "")
    kernel.put(f"{MOUNT}/app/memory.reclaim", "")
    assert cold_cache.probe(root, swap=True) == LISTS


def test_killed_at_any_line_the_next_one_restores(tmp_path: Path) -> None:
    old = OldKernel(tmp_path)
    old.add("", 0, 0)
    app = old.add("app", 0, 3)
    root, number, seen, killed = str(tmp_path), 0, set(), True
    while killed:
        number += 1
        killed = killed_at_line(number, lambda: memory_high.reclaim_cold(root, 300 << 10))
        seen.add(old.high(app) == "max")
        memory_limits.restore(root)
        assert old.high(app) == "max", number
        assert not memory_limits.HIGH.is_saved(root)
    assert seen == {True, False}
    assert number > 30


def test_a_host_in_need_gets_warm_cache_and_no_more_than_it_wants(kernel: OldKernel) -> None:
    big = kernel.add("big", active=0, inactive=400)
    small = kernel.add("db.service", active=0, inactive=300)
    steps.reclaim_in_chunks(str(kernel.root), 60 * MIB, swap=False, exclude=("db.service",))
    assert 330 < inactive_mib(kernel, big) <= 341
    assert inactive_mib(kernel, small) == 300
    assert kernel.high(big) == "max"
    warm = memory_high.reclaim_warm(str(kernel.root), 1 << 40)
    assert not warm.refused
    assert inactive_mib(kernel, big) + inactive_mib(kernel, small) < 8
