"""What has started a process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from giveback.host.started_by import parent_of, started_by, unit_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_unit_that_runs_a_vm() -> None:
    assert unit_of(b"0::/machine.slice/microvm@web.service/emulator\n") == "microvm@web.service"
    assert unit_of(b"1:name=systemd:/system.slice/vm.service\n0::/\n") == "vm.service"
    assert unit_of(b"0::/user.slice/user-1.slice/user@1.service/app.slice/a.scope\n") == ""
    assert unit_of(b"4:memory:/system.slice/vm.service\n") == ""


def test_a_process_without_a_unit_has_a_parent(tmp_path: Path) -> None:
    folder = tmp_path / "proc/7"
    folder.mkdir(parents=True)
    (folder / "stat").write_bytes(b"7 (a ) b) S 9 7 7\n")
    assert started_by(str(tmp_path), 7) == ""
    parent = tmp_path / "proc/9"
    parent.mkdir()
    (parent / "cmdline").write_bytes(b"/usr/bin/launch\0--all\0")
    assert started_by(str(tmp_path), 7) == "launch (pid 9)"
    (folder / "cgroup").write_bytes(b"0::/system.slice/vm.service\n")
    assert started_by(str(tmp_path), 7) == "unit vm.service (systemctl cat vm.service)"


@given(st.binary(max_size=80))
def test_any_bytes_are_a_unit_or_none(data: bytes) -> None:
    unit = unit_of(b"0::" + data)
    assert unit == "" or unit.isprintable()
    assert 0 <= parent_of(data) < 10**9


def test_this_process_has_a_parent() -> None:
    assert parent_of(b"%d (x) S %d 1\n" % (os.getpid(), os.getppid())) == os.getppid()
