"""The daemon's unit as systemd itself reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from peers import systemd_analyze

from giveback.manager.systemd_unit import NAME, unit_text

EXPOSURE_MOST = 3.5


@pytest.mark.parametrize("loopback", [True, False])
def test_systemd_understands_every_line_and_finds_it_hardened(
    tmp_path: Path, loopback: bool
) -> None:
    unit = tmp_path / NAME
    # Any program that is there: whether giveback is installed is not the question here.
    unit.write_text(unit_text(str(Path(sys.executable).resolve()), loopback=loopback))
    verified = systemd_analyze("verify", str(unit))
    about_it = [line for line in verified.stderr.splitlines() if NAME in line]
    assert about_it == []
    judged = systemd_analyze("security", "--offline=true", "--no-pager", str(unit))
    level = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
    if level is None and "offline" in judged.stderr:
        pytest.skip("this systemd-analyze judges no unit offline")
    assert level is not None, judged.stdout + judged.stderr
    assert float(level[1]) <= EXPOSURE_MOST


@pytest.mark.parametrize("by_module", [False, True])
def test_the_command_prints_the_unit_that_runs_itself(by_module: bool) -> None:
    program = str(Path(sys.executable).with_name("giveback"))
    start = [sys.executable, "-m", "giveback"] if by_module else [program]
    done = subprocess.run(
        [*start, "daemon", "--print-unit"], capture_output=True, text=True, check=True
    )
    assert done.stdout == unit_text(program)


def test_the_kernel_s_list_of_sockets_may_be_read() -> None:
    """Without netlink no socket of any VM is proven to be its own, and none is spoken to."""
    for loopback in (True, False):
        (families,) = re.findall(
            r"^RestrictAddressFamilies=(.*)$",
            unit_text("/bin/true", loopback=loopback),
            re.MULTILINE,
        )
        assert "AF_NETLINK" in families.split()


def test_the_unit_leaves_openat2_alone() -> None:
    """systemd refuses the call where set-user-ID files are restricted: no socket of a VM was reached."""
    assert "RestrictSUIDSGID" not in unit_text("/bin/true")
