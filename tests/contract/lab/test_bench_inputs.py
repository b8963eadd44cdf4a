"""`giveback bench`'s command line: invalid input gives one line, before anything is started."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest


def bench(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "giveback", "bench", *words],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--strategies", "nothing-such"], "no strategy 'nothing-such'"),
        (["--strategies", ","], "names no strategy"),
        (["--work", "gardening"], "no workload 'gardening'"),
        (["--work", ""], "names no workload"),
        (["--kernels", "2.4"], "kernel 2.4: has no free page reporting"),
        (["--mem", "lots"], "--mem 'lots': not a size"),
        (["--mem", "2G,"], "--mem '': not a size"),
        (["--mem", "256M", "--work", "files"], "need at least 512"),
        (["--mem", "768M", "--work", "three-aligned"], "need at least 512"),
        (["--mem", "900T", "--work", "files"], "the host has"),
        (["--runs", "0"], "--runs 0: must be 1 to 100"),
        (["--at-once", "0"], "--at-once 0: must be 1 to 16"),
        (["--cpus", "-1"], "--cpus -1: must be 1 to 64"),
        (["--seed", "-1"], "--seed -1: must be"),
        (["--report-only", "--out", "nothing-here"], "no finished cell"),
        (
            ["--work", "files", "--mem", "512M", "--at-once", "1", "--out", "/proc/nothing"],
            "choose a folder that can be written",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    done = bench(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("giveback: ")
    assert says in line
    assert "Traceback" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_cells_are_named_and_left_out(tmp_path: Path) -> None:
    cells = tmp_path / "out" / "cells"
    cells.mkdir(parents=True)
    (cells / "6.12-1024M-files-none-r1.json.gz").write_bytes(b"not compressed")
    (cells / "6.12-1024M-files-giveback-r1.json.gz").write_bytes(gzip.compress(b'{"schema":1}'))
    (cells / ".6.12-1024M-hogs-none-r1.json.gz.77").write_bytes(b"half of a file")
    done = bench("--report-only", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.count("left out of the report") == 2
    assert "no finished cell" in done.stderr


def test_help_names_what_there_is(tmp_path: Path) -> None:
    done = bench("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("--strategies", "--quick", "--report-only", "--at-once", "database", "editor"):
        assert word in done.stdout
