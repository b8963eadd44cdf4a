"""A real cgroup with a real process in it, seen as a small host."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from giveback.host.memory import read_host_view

MIB = 1 << 20
LIMIT = 256 * MIB
HELD = 96 * MIB
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
HOLDS = f"""
import sys
open(sys.argv[1], "w").write("0")
held = bytearray(b"x") * {HELD}
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A new cgroup, of the version that has the memory controller here."""
    version_1 = (V1 / "memory.limit_in_bytes").exists()
    folder = (V1 if version_1 else V2) / f"giveback-test-{time.monotonic_ns()}"
    limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if not limit.exists():
            pytest.skip("the memory controller is not enabled for groups of the root")
        limit.write_text(str(LIMIT))
        yield folder
    finally:
        deadline_s = time.monotonic() + 30
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:
                # The kernel may not have reaped its process yet.
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)


def test_memory_of_a_process_is_not_available(group: Path) -> None:
    before = read_host_view(cgroup=str(group), now_s=0.0)
    assert before.total_bytes == LIMIT
    assert before.available_bytes > LIMIT - 16 * MIB
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(group / "cgroup.procs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        holding = read_host_view(cgroup=str(group), now_s=1.0)
        process.communicate()
    assert LIMIT - HELD - 48 * MIB < holding.available_bytes <= LIMIT - HELD
    assert process.returncode == 0


def test_a_cgroup_has_the_limit_of_its_parent(group: Path) -> None:
    inner = group / "inner"
    controllers = group / "cgroup.subtree_control"
    if controllers.exists():
        controllers.write_text("+memory")
    inner.mkdir()
    try:
        assert read_host_view(cgroup=str(inner), now_s=0.0).total_bytes == LIMIT
    finally:
        inner.rmdir()
