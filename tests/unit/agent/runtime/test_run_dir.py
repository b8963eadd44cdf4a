"""One agent per guest, its files and its urgency."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.errors import AgentError
from giveback_agent.runtime import run_dir


def test_the_second_agent_refuses_with_the_firsts_pid(tmp_path: Path) -> None:
    lock = run_dir.hold_lock(str(tmp_path))
    program = (
        "import sys; from giveback_agent.runtime import run_dir; run_dir.hold_lock(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert f"pid {os.getpid()}" in done.stderr
    assert run_dir.running_pid(str(tmp_path)) == os.getpid()
    run_dir.release_lock(str(tmp_path), lock)
    assert run_dir.running_pid(str(tmp_path)) is None
    os.close(run_dir.hold_lock(str(tmp_path)))


def test_an_invalid_pid_file_means_that_no_agent_runs(tmp_path: Path) -> None:
    assert run_dir.running_pid(str(tmp_path)) is None
    run_dir.make_folder(str(tmp_path))
    (tmp_path / run_dir.PID_PATH[1:]).write_bytes(b"\xff" * 100)
    assert run_dir.running_pid(str(tmp_path)) is None


@given(st.integers(-5, 9), st.floats(allow_nan=True, allow_infinity=True))
def test_urgency_counts_only_within_its_time(urgency: int, until_s: float) -> None:
    text = f"{urgency} {until_s}"
    words = text.split()
    assert len(words) == 2
    root = os.environ.get("PYTEST_TMP_URGENCY") or _scratch()
    run_dir.write_file(root, run_dir.URGENCY_PATH, text)
    read = run_dir.read_urgency(root, 100.0)
    if read is not None:
        assert 0 <= read[0] <= 3
        assert 100.0 < read[1] <= 100.0 + run_dir.URGENCY_MOST_S


def _scratch() -> str:
    import tempfile

    root = tempfile.mkdtemp()
    run_dir.make_folder(root)
    os.environ["PYTEST_TMP_URGENCY"] = root
    return root


def test_a_pid_counts_only_with_its_start_time(tmp_path: Path) -> None:
    root = str(tmp_path)
    lock = run_dir.hold_lock(root)
    pid, ticks = (tmp_path / run_dir.PID_PATH[1:]).read_text().split()
    for left in (f"{pid}\n", f"{pid} {int(ticks) + 1}\n"):
        run_dir.write_file(root, run_dir.PID_PATH, left)
        assert run_dir.running_pid(root) is None
    os.close(lock)


def test_all_users_may_read_the_pid_and_only_root_can_lock(tmp_path: Path) -> None:
    lock = run_dir.hold_lock(str(tmp_path))
    modes = {
        one.name: one.stat().st_mode & 0o777 for one in (tmp_path / run_dir.FOLDER[1:]).iterdir()
    }
    assert modes == {"agent.pid": 0o644, "agent.lock": 0o600}
    os.close(lock)


def test_a_full_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(AgentError, match="cannot be written"):
        run_dir.hold_lock(str(tmp_path))
