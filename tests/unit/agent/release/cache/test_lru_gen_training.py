"""Training joins a cgroup in a child that cannot hang the worker, and never a frozen one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from giveback_agent.release.cache import lru_gen_training

MOUNT = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


def nothing(pages: int) -> None:
    """Evict no page."""


def guest(root: Path, frozen: str = "frozen 0\n", freeze: str = "0\n") -> Path:
    for path, text in {
        "proc/self/mountinfo": MOUNT,
        "proc/self/cgroup": "0::/own\n",
        "proc/vmstat": "workingset_refault_file 0\n",
        "sys/fs/cgroup/app/cgroup.events": f"populated 1\n{frozen}",
        "sys/fs/cgroup/app/cgroup.freeze": freeze,
        "sys/fs/cgroup/app/cgroup.procs": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "scratch").mkdir()
    return root


def joined(root: Path) -> bool:
    return (root / "sys/fs/cgroup/app/cgroup.procs").read_text() == "0"


@pytest.mark.parametrize(
    ("frozen", "freeze", "joins"),
    [("frozen 0\n", "0\n", True), ("frozen 1\n", "0\n", False), ("frozen 0\n", "1\n", False)],
)
def test_a_frozen_cgroup_is_not_joined(
    tmp_path: Path, frozen: str, freeze: str, joins: bool
) -> None:
    root = guest(tmp_path, frozen, freeze)
    lru_gen_training.train(str(root), "/app", str(root / "scratch"), nothing)
    assert joined(root) is joins


def test_an_older_kernel_without_a_freezer_is_asked(tmp_path: Path) -> None:
    root = guest(tmp_path)
    for name in ("events", "freeze"):
        (root / f"sys/fs/cgroup/app/cgroup.{name}").unlink()
    lru_gen_training.train(str(root), "/app", str(root / "scratch"), nothing)
    assert joined(root)


def test_a_child_that_is_held_is_killed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = guest(tmp_path)
    reader, writer = os.pipe()

    def hang(*_: object) -> tuple[int, int]:
        (root / "pid").write_text(str(os.getpid()))
        os.read(reader, 1)
        return 500, 0

    monkeypatch.setattr(lru_gen_training, "_refaults_of_scratch", hang)
    monkeypatch.setattr(lru_gen_training, "TIMEOUT_S", 0.5)
    # Descriptors above 3 are closed in the child: the pipe stays at 0, where nothing is read.
    monkeypatch.setattr(os, "closerange", lambda *_: None)
    began_s = time.monotonic()
    assert (
        lru_gen_training.train(str(root), "/app", str(root / "scratch"), nothing)
        == lru_gen_training.Training()
    )
    assert time.monotonic() - began_s < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "pid").read_text()), 0)
    os.close(reader)
    os.close(writer)


def test_this_process_joins_nothing_itself(tmp_path: Path) -> None:
    """A worker that is killed, or hangs, has not changed its cgroup: only its child joins another."""
    root = guest(tmp_path)
    before = Path("/proc/self/cgroup").read_text()
    lru_gen_training.train(str(root), "/app", str(root / "scratch"), nothing)
    assert Path("/proc/self/cgroup").read_text() == before
    assert list((root / "scratch").iterdir()) == []


def test_the_place_of_new_cache_is_the_third_youngest_if_it_cannot_be_measured(
    tmp_path: Path,
) -> None:
    root = guest(tmp_path)
    assert lru_gen_training.place_of_new_cache(str(root), str(root / "scratch"), "") == 3
    assert lru_gen_training.place_of_new_cache(str(tmp_path / "none"), "/none", "") == 3


@pytest.mark.parametrize(
    ("text", "cpus"), [(b"0-3,8\n", {0, 1, 2, 3, 8}), (b"5\n", {5}), (b"7-6\n", set())]
)
def test_a_nodes_cpus(text: bytes, cpus: set[int]) -> None:
    assert lru_gen_training._cpus_in(text) == cpus


def test_pages_that_cannot_be_moved_are_not_evicted(tmp_path: Path) -> None:
    """Here no page is counted as moved: other pages would be evicted."""
    root = guest(tmp_path)
    asked: list[int] = []
    scratch = str(root / "scratch")
    assert lru_gen_training._refaults_of_scratch(str(root), scratch, asked.append) == (0, 0)
    assert asked == []
    assert list((root / "scratch").iterdir()) == []
