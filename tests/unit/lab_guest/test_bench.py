"""The workloads as they run in a guest, at a small scale: what they leave, read again and clean up."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from giveback_lab_guest import bench
from giveback_lab_guest.works import files as bench_files
from giveback_lab_guest.works import hogs as bench_hogs
from giveback_lab_guest.works.build import Build
from giveback_lab_guest.works.database import Database
from giveback_lab_guest.works.files import Files, FileTree

MIB = 1 << 20
RAM = 64 * MIB


def said_by(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    last: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def do(step: str, work: str, folder: Path) -> int:
    return bench.bench([step, work, str(folder), str(RAM), "1", "2"])


@pytest.mark.parametrize("work", ["files", "editor", "database"])
def test_a_work_says_what_it_did_and_its_hot_set_is_read_whole(
    work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do("run", work, tmp_path / work) == 0
    done = said_by(capsys)
    assert done["done"]
    assert done["work_s"] > 0
    assert 0 < done["hot_bytes"] < RAM // 4
    assert do("reread", work, tmp_path / work) == 0
    again = said_by(capsys)
    assert 0.8 * done["hot_bytes"] < again["reread_bytes"] <= done["hot_bytes"]
    assert again["reread_s"] > 0
    assert again["disk_bytes"] >= 0


def test_files_keep_the_hot_half_and_the_archive(tmp_path: Path) -> None:
    job = Files(str(tmp_path), RAM, 1, 2)
    for _, act in job.phases():
        act()
    left = [path for path, _ in job.tree.files if Path(path).exists()]
    assert {path for path, _ in job.tree.hot()} <= set(left)
    assert len(left) == (len(job.tree.files) + 1) // 2
    assert Path(job.archive).stat().st_size > job.percent(Files.share)
    for path, size in job.tree.hot():
        assert Path(path).stat().st_size == size


def test_the_same_seed_gives_the_same_tree(tmp_path: Path) -> None:
    first, same, other = (FileTree(str(tmp_path), 8 * MIB, seed) for seed in (1, 1, 2))
    assert first.files == same.files != other.files
    assert sum(size for _, size in first.files) == sum(size for _, size in other.files) == 8 * MIB


def test_the_database_is_sound_after_its_work(tmp_path: Path) -> None:
    job = Database(str(tmp_path), RAM, 1, 2)
    for _, act in job.phases():
        act()
    with sqlite3.connect(job.path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM item").fetchone() == (job.rows,)
    database.close()
    keys = job.hot_keys()
    assert len(keys) == len(set(keys))
    assert job.rows / 12 < len(keys) < job.rows / 6


def test_hogs_leave_a_process_that_keeps_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(Path(bench.__file__).parent / "__main__.py")
    monkeypatch.setattr("sys.argv", [source])
    monkeypatch.setenv("PYTHONPATH", str(Path(bench.__file__).parents[1]))
    before = keepers()
    assert do("run", "hogs", tmp_path) == 0
    assert said_by(capsys)["hot_bytes"] == 0
    (keeper,) = keepers() - before
    try:
        rows = Path(f"/proc/{keeper}/smaps").read_text().splitlines()
        sizes = [int(row.split()[1]) << 10 for row in rows if row.startswith("Size:")]
        held = [int(row.split()[1]) << 10 for row in rows if row.startswith("Rss:")]
        whole = RAM * bench_hogs.KEEPER_PERCENT // 100 // MIB * MIB
        kept = whole * bench_hogs.KEPT_BYTES // bench_hogs.STRIDE_BYTES
        # Its neighbours may share one mapping with it; they hold a few pages.
        near = [h for s, h in zip(sizes, held, strict=True) if whole <= s < whole + 4 * MIB]
        assert near
        assert kept <= min(near) < kept + 4 * MIB
    finally:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)


def keepers() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"keep" in words and b"bench" in words:
            found.add(int(path.parent.name))
    return found


def test_a_build_has_more_jobs_and_copies_where_there_is_more_memory() -> None:
    small, middle, large = (Build("/w", gib << 29, 1, 2) for gib in (1, 4, 8))
    assert [len(build.copies) for build in (small, middle, large)] == [1, 1, 2]
    assert small.jobs < middle.jobs
    assert middle.jobs * len(middle.copies) <= large.jobs * len(large.copies)


def test_the_editor_appends_and_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):  # noqa: N818  # ends the loop that has no end
        pass

    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 2:
            raise Enough

    do("run", "editor", tmp_path)
    monkeypatch.setattr("giveback_lab_guest.works.files.time.sleep", rest)
    with pytest.raises(Enough):
        bench_files.Editor(str(tmp_path), RAM, 1, 2).linger()
    assert (tmp_path / "editor.log").stat().st_size == 2 * bench_files.LOG_BYTES
    busy = bench_files.BURST_S / (bench_files.BURST_S + rests[0])
    assert 0.05 <= busy <= 0.10


def test_an_unknown_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        do("nothing", "files", tmp_path)


def test_hogs_end_for_who_waits_for_their_output(tmp_path: Path) -> None:
    package = Path(bench.__file__).parent
    words = [sys.executable, str(package / "__main__.py"), "bench", "run", "hogs"]
    before = keepers()
    try:
        # Returns at the end of both outputs, like the lab's server: not at the process's end.
        done = subprocess.run(
            [*words, str(tmp_path), str(RAM), "1", "2"], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(package.parent)},
            timeout=120, check=True,
        )  # fmt: skip
    finally:
        for keeper in keepers() - before:
            os.kill(keeper, signal.SIGKILL)
    assert json.loads(done.stdout.splitlines()[-1])["done"]
