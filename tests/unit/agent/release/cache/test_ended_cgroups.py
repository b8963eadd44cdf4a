"""Cache of ended cgroups: its amount, and that the protection of live cgroups is always restored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from agent_killed_at_line import killed_at_line
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.release.cache import ended_cgroups, live_protection
from giveback_agent.runtime import memory_limits, run_dir
from giveback_kernel import cgroup_stat, compaction, files, lru_gen, memcg
from giveback_kernel.errors import KernelFileError

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
MOUNTINFO = b"30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory_recursiveprot\n"
LRU = b"""memcg     1 /
 node     0
          1      90000       0      10
memcg     0 /machine.slice/libpod-1.scope
 node     0
          1      80000       3     100
          2      70000       0      20
memcg     7 /system.slice/db.service
 node     0
          1      80000       3    1000
"""


def group(root: Path, path: str, cache_mib: int = 0, low: str = "0") -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    stat = f"active_file {cache_mib * MIB}\ninactive_file 0\nfile_dirty 0\nfile_writeback 0\n"
    (folder / "memory.stat").write_text(stat)
    (folder / "memory.current").write_text(f"{cache_mib * MIB + 5000}\n")
    (folder / "memory.low").write_text(f"{low}\n")
    (folder / "memory.reclaim").write_text("")


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    plant(tmp_path, {**GUEST, "/proc/self/mountinfo": MOUNTINFO})
    group(tmp_path, "")
    for path, cache_mib in {"a": 0, "a/x": 30, "a/y": 10, "b": 0, "b/small": 0}.items():
        group(tmp_path, path, cache_mib)
    return tmp_path


def low(root: Path, path: str) -> int:
    # A fake kernel file is not truncated by a write: only its first line counts.
    return int((root / "sys/fs/cgroup" / path / "memory.low").read_text().splitlines()[0])


def test_an_ended_cgroup_is_known_by_its_number(guest: Path) -> None:
    def ended_pages(node: int | None = None) -> int:
        shares = ended_cgroups.read_shares(str(guest), generations=True, node=node)
        assert shares is not None
        return shares.ended_bytes // PAGE

    plant(guest, {lru_gen.PATH: LRU})
    assert ended_pages() == 120
    assert ended_pages(0) == 120
    assert ended_pages(1) == 0
    plant(guest, {lru_gen.PATH: b"memcg 0 /\n node 0\n 1 1 1 500\n"})
    assert ended_pages() == 0


def test_in_a_namespace_only_what_ended_there_counts(guest: Path) -> None:
    top = guest / "sys/fs/cgroup"
    (top / "cgroup.type").write_text("domain\n")
    group(guest, "", 100)
    place = "/wsl-user/distro-27"
    text = ""
    for number, (path, pages) in enumerate(
        {f"{place}/a/x": 30 * MIB // PAGE, f"{place}/a/y": 10 * MIB // PAGE}.items()
    ):
        text += f"memcg {number + 7} {path}\n node 0\n 1 1 1 {pages} \n"
    text += f"memcg 0 {place}/gone.scope\n node 0\n 1 1 1 2560 \n"
    text += "memcg 0 /wsl-user/distro-3/gone.scope\n node 0\n 1 1 1 5120 \n"
    plant(guest, {lru_gen.PATH: text.encode()})
    shares = ended_cgroups.read_shares(str(guest), generations=True)
    assert shares == ended_cgroups.CacheShares(2560 * PAGE, 100 * MIB - 2560 * PAGE)
    # By sums: the namespace's own total, which includes cgroups that ended in it.
    ended_cgroups.read_shares(str(guest), generations=False)
    group(guest, "", 130)
    shares = ended_cgroups.read_shares(str(guest), generations=False)
    assert shares == ended_cgroups.CacheShares(30 * MIB, 100 * MIB)


def test_with_more_cgroups_than_are_read_nothing_counts_as_ended(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended_cgroups.read_shares(str(guest), generations=False) is not None
    monkeypatch.setattr(memcg, "all_leaves", lambda *_: None)
    assert ended_cgroups.read_shares(str(guest), generations=False) is None


@given(st.binary(max_size=200))
def test_any_cgroup_stat_is_read_or_refused(data: bytes) -> None:
    try:
        found = cgroup_stat.parse(data)
    except KernelFileError:
        return
    assert found.descendants >= 0
    assert found.dying_descendants >= 0


def test_leaves_are_protected_and_their_ancestors_by_the_sum(guest: Path) -> None:
    live_protection.protect(str(guest), "/sys/fs/cgroup")
    x, y = low(guest, "a/x"), low(guest, "a/y")
    assert x >= 30 * MIB
    assert y >= 10 * MIB
    assert low(guest, "a") == x + y
    assert low(guest, "b/small") == low(guest, "b") == 0
    assert live_protection.restore(str(guest)) == 3
    assert [low(guest, p) for p in ("a", "a/x", "a/y")] == [0, 0, 0]
    assert live_protection.restore(str(guest)) is None


def test_more_protection_than_ours_is_left_alone_and_so_is_what_others_set_since(
    guest: Path,
) -> None:
    group(guest, "a/y", 10, low=str(1 << 40))
    live_protection.protect(str(guest), "/sys/fs/cgroup")
    assert low(guest, "a/y") == 1 << 40
    (guest / "sys/fs/cgroup/a/x/memory.low").write_text("123\n")
    assert live_protection.restore(str(guest)) == 1
    assert (low(guest, "a"), low(guest, "a/x"), low(guest, "a/y")) == (0, 123, 1 << 40)


def test_killed_at_any_line_the_next_one_restores(guest: Path) -> None:
    paths = ("a", "a/x", "a/y")
    number, seen = 0, set()

    def work() -> None:
        live_protection.protect(str(guest), "/sys/fs/cgroup")
        live_protection.restore(str(guest))

    while True:
        number += 1
        killed = killed_at_line(number, work)
        seen.add(tuple(low(guest, p) > 0 for p in paths))
        live_protection.restore(str(guest))
        assert [low(guest, p) for p in paths] == [0, 0, 0], number
        if not killed:
            break
    assert (True, True, True) in seen
    assert number > 20


@given(st.binary(max_size=300))
def test_no_record_makes_it_write_another_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    record = root / memory_limits.LOW.record_path.lstrip("/")
    record.parent.mkdir(parents=True)
    record.write_bytes(data)
    before = sorted(path for path in root.rglob("*"))
    live_protection.restore(str(root))
    (root / run_dir.RECORDS_LOCK_PATH[1:]).unlink()
    assert sorted(path for path in root.rglob("*")) == [p for p in before if p != record]


def test_the_least_that_was_ever_left_over_is_the_roots_own(guest: Path) -> None:
    root = str(guest)
    first = ended_cgroups.read_shares(root, generations=False)
    assert first is not None
    assert first.ended_bytes == 0
    total = first.live_bytes
    group(guest, "a/x", 20)  # ten MiB are on no live list any more
    later = ended_cgroups.read_shares(root, generations=False)
    assert later is not None
    assert (later.ended_bytes, later.live_bytes) == (10 * MIB, total - 10 * MIB)


def test_a_step_that_takes_from_live_cgroups_is_the_last(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = ended_cgroups.CacheShares(400 * MIB, 400 * MIB)
    asked: list[int] = []

    def read(root: str, generations: bool, node: int | None = None) -> ended_cgroups.CacheShares:
        done = sum(asked)
        return ended_cgroups.CacheShares(
            shares.ended_bytes - done // 2, shares.live_bytes - done // 2
        )

    def write(root: str, path: str, text: str) -> None:
        if path.endswith("memory.reclaim"):
            asked.append(int(text.split(maxsplit=1)[0]))

    monkeypatch.setattr(ended_cgroups, "read_shares", read)
    monkeypatch.setattr(files, "write", write)
    result = ended_cgroups.reclaim_ended(str(guest), True, 1 << 40)
    assert result.steps == 1
    assert asked == [ended_cgroups.STEP_BYTES]


def test_no_more_is_asked_for_than_ended_cgroups_hold(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def read(root: str, generations: bool, node: int | None = None) -> ended_cgroups.CacheShares:
        return ended_cgroups.CacheShares(max(0, 100 * MIB - sum(asked)), 400 * MIB)

    monkeypatch.setattr(ended_cgroups, "read_shares", read)

    def write(root: str, path: str, text: str) -> None:
        if path.endswith("memory.reclaim"):
            asked.append(int(text.split(maxsplit=1)[0]))

    monkeypatch.setattr(files, "write", write)
    assert ended_cgroups.reclaim_ended(str(guest), True, 1 << 40).after_bytes == 0
    assert sum(asked) == 100 * MIB
    asked.clear()
    ended_cgroups.reclaim_ended(str(guest), True, 1 << 40, wanted=lambda: False)
    assert asked == []


def test_nodes_are_asked_one_by_one_where_there_is_no_memory_reclaim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory controller on cgroup v1, Linux 6.17 and later."""
    v1 = b"30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    nodes = {
        f"/sys/devices/system/node/node{n}/{name}": b"" for n in (0, 1) for name in ("reclaim",)
    }
    plant(tmp_path, {**GUEST, "/proc/self/mountinfo": v1, **nodes})
    monkeypatch.setattr(compaction, "nodes", lambda _: (0, 1))
    there = {0: 100 * MIB, 1: 50 * MIB}
    asked: list[str] = []

    def read(root: str, generations: bool, node: int | None = None) -> ended_cgroups.CacheShares:
        ended = there[node] if node is not None else sum(there.values())
        return ended_cgroups.CacheShares(ended, 400 * MIB)

    def write(root: str, path: str, text: str) -> None:
        asked.append(path)
        assert text.endswith(" swappiness=0")
        node = int(path.rsplit("node", maxsplit=1)[-1][0])
        there[node] = max(0, there[node] - int(text.split(maxsplit=1)[0]))

    monkeypatch.setattr(ended_cgroups, "read_shares", read)
    monkeypatch.setattr(files, "write", write)
    done = ended_cgroups.reclaim_ended(str(tmp_path), True, 1 << 40)
    assert (done.asked_bytes, done.after_bytes) == (150 * MIB, 0)
    assert [path.split("/")[-2] for path in asked] == ["node0", "node1"]
    # Two lists would take from all cgroups alike.
    there[0] = 100 * MIB
    assert ended_cgroups.reclaim_ended(str(tmp_path), False, 1 << 40).steps == 0
