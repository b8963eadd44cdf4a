"""One agent per guest, its files, its urgency, and the report order that is always given back."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent import files, runtime
from giveback_agent.errors import KernelFileError
from giveback_agent.kernel import page_reporting
from giveback_agent.order import STATE_PATH, OrderGuard


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A fake root with a report order of 9."""
    order = tmp_path / page_reporting.ORDER_PATH[1:]
    order.parent.mkdir(parents=True)
    order.write_text("9\n")
    runtime.make_folder(str(tmp_path))
    return tmp_path


def order_of(guest: Path) -> int | None:
    return page_reporting.read_order(str(guest))


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


def test_the_order_is_lowered_and_restored(guest: Path) -> None:
    guard = OrderGuard(str(guest))
    guard.lower(3)
    guard.lower(0)
    assert order_of(guest) == 0
    assert guard.lowered
    assert guard.restore() == 9
    assert order_of(guest) == 9
    assert not (guest / STATE_PATH[1:]).exists()
    assert guard.restore() is None


def test_what_a_killed_agent_left_is_repaired(guest: Path) -> None:
    OrderGuard(str(guest)).lower(0)
    assert OrderGuard(str(guest)).repair() == 9
    assert order_of(guest) == 9
    assert OrderGuard(str(guest)).repair() is None


@pytest.mark.parametrize("nonsense", [b"", b"\xff", b"99", b"-7", b"1e9", b"9" * 5000])
def test_nonsense_in_the_state_file_changes_nothing(guest: Path, nonsense: bytes) -> None:
    (guest / STATE_PATH[1:]).write_bytes(nonsense)
    assert OrderGuard(str(guest)).repair() is None
    assert order_of(guest) == 9


def test_without_a_place_for_the_state_the_order_is_not_touched(tmp_path: Path) -> None:
    order = tmp_path / page_reporting.ORDER_PATH[1:]
    order.parent.mkdir(parents=True)
    order.write_text("9\n")
    with pytest.raises(KernelFileError, match="repaired"):
        OrderGuard(str(tmp_path)).lower(0)
    assert order_of(tmp_path) == 9


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_restore_that_fails_may_be_tried_again(
    guest: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = OrderGuard(str(guest))
    guard.lower(0)
    real = files.write

    def refuse(root: str, path: str, text: str) -> None:
        raise KernelFileError(path, os.strerror(number), number)

    monkeypatch.setattr(files, "write", refuse)
    with pytest.raises(KernelFileError):
        guard.restore()
    assert guard.lowered
    monkeypatch.setattr(files, "write", real)
    assert guard.restore() == 9
    assert order_of(guest) == 9
