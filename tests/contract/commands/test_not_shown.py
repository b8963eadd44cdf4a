"""A process that could not be read may run a VM: `ps` and `doctor` say that it is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import stuck_fuse
from scripted_vmm import process
from scripted_vms import vm

from giveback.cli import main
from giveback.commands import _output
from giveback.errors import VmError
from giveback.host.readers import pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_readers() -> Iterator[None]:
    pool.shared().close()
    pool.shared.cache_clear()
    yield
    pool.shared().close()
    pool.shared.cache_clear()


@pytest.mark.skipif(not stuck_fuse.usable(), reason="needs root and /dev/fuse")
def test_a_process_that_hangs_its_reader_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        stuck_fuse.mounted(tmp_path / "stuck") as stuck,
        vm(tmp_path, "seen"),
        process("qemu-system-x86_64", "-readconfig", f"{stuck}/hang") as hanging,
    ):
        assert main(["ps"]) == 0
        shown = capsys.readouterr().out
        assert "seen" in shown
        assert f"not shown: process {hanging.pid} " in shown
        assert main(["ps", "--json"]) == 0
        said = capsys.readouterr()
        assert "seen" in [one["name"] for one in json.loads(said.out)]
        assert f"giveback: not shown: process {hanging.pid} " in said.err
        assert main(["doctor"]) in (0, 1)
        assert f"not shown: process {hanging.pid} " in capsys.readouterr().err


def test_many_processes_take_few_lines() -> None:
    assert _output.not_shown([]) == ""
    lines = _output.not_shown([VmError(f"process {n}\n hangs") for n in range(100)]).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "not shown: 90 processes more"
