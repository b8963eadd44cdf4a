"""Training joins a cgroup in a child that cannot hang the worker, and never a frozen one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from giveback_agent.release.cache import lru_gen_training

MOUNT = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


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
    lru_gen_training.train(str(root), "/app", str(root / "scratch"))
    assert joined(root) is joins


def test_an_older_kernel_without_a_freezer_is_asked(tmp_path: Path) -> None:
    root = guest(tmp_path)
    for name in ("events", "freeze"):
        (root / f"sys/fs/cgroup/app/cgroup.{name}").unlink()
    lru_gen_training.train(str(root), "/app", str(root / "scratch"))
    assert joined(root)


def test_a_child_that_is_held_is_killed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = guest(tmp_path)
    reader, writer = os.pipe()

    def hang(*_: object) -> int:
        (root / "pid").write_text(str(os.getpid()))
        os.read(reader, 1)
        return 500

    monkeypatch.setattr(lru_gen_training, "_refaults_of_scratch", hang)
    monkeypatch.setattr(lru_gen_training, "TIMEOUT_S", 0.5)
    # Descriptors above 3 are closed in the child: the pipe stays at 0, where nothing is read.
    monkeypatch.setattr(os, "closerange", lambda *_: None)
    began_s = time.monotonic()
    assert lru_gen_training.train(str(root), "/app", str(root / "scratch")) == 0
    assert time.monotonic() - began_s < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "pid").read_text()), 0)
    os.close(reader)
    os.close(writer)


def test_this_process_joins_nothing_itself(tmp_path: Path) -> None:
    """A worker that is killed, or hangs, has not changed its cgroup: only its child joins another."""
    root = guest(tmp_path)
    before = Path("/proc/self/cgroup").read_text()
    lru_gen_training.train(str(root), "/app", str(root / "scratch"))
    assert Path("/proc/self/cgroup").read_text() == before
    assert list((root / "scratch").iterdir()) == []
