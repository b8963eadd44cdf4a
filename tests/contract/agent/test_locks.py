"""Another user locks all that it can open: the agent starts, and puts back what a killed one left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stranger import as_root, locking, public_folder

from giveback_agent.runtime import run_dir
from giveback_kernel.page_reporting import ORDER_PATH

SAMPLES = Path(__file__).parents[2] / "unit/helpers/agent_kernel_files"
DEADLINE_S = 60.0
LIMIT = "/sys/fs/cgroup/web/memory.low"
_KILLED = f"""
import os, signal, sys
from giveback_agent.release import report_order
from giveback_agent.runtime import memory_limits, run_dir
from giveback_agent.runtime.saved_value import Changed
root = sys.argv[1]
run_dir.hold_lock(root)
report_order.lower(root, 0)
memory_limits.LOW.change(root, (Changed("0", "max", "{LIMIT}"),))
os.kill(os.getpid(), signal.SIGKILL)
"""


def fake_guest(root: Path) -> None:
    names = ("meminfo", "stat", "buddyinfo", "zoneinfo", "vmstat")
    files = {f"/proc/{name}": (SAMPLES / name).read_bytes() for name in names}
    files[ORDER_PATH] = b"9\n"
    files[LIMIT] = b"0\n"
    for path, content in files.items():
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / path[1:]).write_bytes(content)


@pytest.fixture
def shared() -> Iterator[Path]:
    with public_folder() as folder:
        yield folder


@as_root
def test_an_agent_starts_and_repairs_whatever_another_user_has_locked(shared: Path) -> None:
    fake_guest(shared)
    order, limit = shared / ORDER_PATH[1:], shared / LIMIT[1:]
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(shared)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (order.read_text(), limit.read_text()) == ("0\n", "max\n")
    command = [sys.executable, "-m", "giveback_agent", "--root", str(shared), "run"]
    with locking(shared / "run") as held:
        assert str(shared / run_dir.PID_PATH[1:]) in held
        service = subprocess.Popen(command, start_new_session=True)
        try:
            deadline_s = time.monotonic() + DEADLINE_S
            while order.read_text() != "9\n" or run_dir.running_pid(str(shared)) != service.pid:
                assert service.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            assert limit.read_text().startswith("0\n")  # A kernel file is not shortened.
            service.terminate()
            assert service.wait(DEADLINE_S) == 0
        finally:
            service.kill()
            service.wait()
    assert run_dir.running_pid(str(shared)) is None
