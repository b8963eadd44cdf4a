"""One agent per guest, its files and its urgency."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent import runtime
from giveback_agent.errors import AgentError


def test_the_second_agent_refuses_with_the_firsts_pid(tmp_path: Path) -> None:
    lock = runtime.hold_lock(str(tmp_path))
    program = "import sys; from giveback_agent import runtime; runtime.hold_lock(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert f"pid {os.getpid()}" in done.stderr
    assert runtime.running_pid(str(tmp_path)) == os.getpid()
    os.close(lock)
    assert runtime.running_pid(str(tmp_path)) is None
    os.close(runtime.hold_lock(str(tmp_path)))


def test_a_pid_file_of_nonsense_says_nobody_runs(tmp_path: Path) -> None:
    assert runtime.running_pid(str(tmp_path)) is None
    runtime.make_folder(str(tmp_path))
    (tmp_path / runtime.PID_PATH[1:]).write_bytes(b"\xff" * 100)
    assert runtime.running_pid(str(tmp_path)) is None


@given(st.integers(-5, 9), st.floats(allow_nan=True, allow_infinity=True))
def test_urgency_counts_only_within_its_time(urgency: int, until_s: float) -> None:
    text = f"{urgency} {until_s}"
    words = text.split()
    assert len(words) == 2
    root = os.environ.get("PYTEST_TMP_URGENCY") or _scratch()
    runtime.write_file(root, runtime.URGENCY_PATH, text)
    read = runtime.read_urgency(root, 100.0)
    if read is not None:
        assert 0 <= read[0] <= 3
        assert 100.0 < read[1] <= 100.0 + runtime.URGENCY_MOST_S


def _scratch() -> str:
    import tempfile

    root = tempfile.mkdtemp()
    runtime.make_folder(root)
    os.environ["PYTEST_TMP_URGENCY"] = root
    return root


def test_who_only_asks_keeps_no_agent_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    os.close(runtime.hold_lock(root))
    asker = os.open(root + runtime.PID_PATH, os.O_RDONLY)
    fcntl.flock(asker, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(asker))
    os.close(runtime.hold_lock(root))


def test_a_full_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(AgentError, match="No space left"):
        runtime.hold_lock(str(tmp_path))
