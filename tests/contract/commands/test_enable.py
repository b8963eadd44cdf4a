"""`giveback enable` on a plain QEMU that runs: options for its next start, and what QMP does now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from real_qemu import described, running

from giveback.cli import main
from giveback.vmm.backends import libvirt
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Answer, VmDescription, VmState

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BALLOON = ["-device", "virtio-balloon-pci,id=b,free-page-reporting=on"]


def state_of(vm: VmDescription) -> VmState:
    return asyncio.run(QemuBackend().inspect(vm, timeout_s=10))


def test_a_plain_qemu_is_told_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not libvirt-python is there: it is not asked for."""
    monkeypatch.setattr(libvirt, "available", lambda: False)
    with running(tmp_path, "-m", "64M", "-name", "plain", machine="pc") as process:
        vm = described(process)
        assert main(["enable", str(process.pid)]) == 0
        shown = capsys.readouterr().out
        assert "-device virtio-balloon-pci,free-page-reporting=on" in shown
        assert "-device virtserialport,chardev=giveback,name=org.giveback.agent.0" in shown
        assert "-qmp" not in shown  # it has one
        assert "device_add" in shown
        assert "nothing was changed" in shown
        assert state_of(vm).description is None
        assert main(["enable", str(process.pid), "--yes", "--period", "7"]) == 0
        after = state_of(vm)
        assert after.statistics_period_s == 7
        assert after.description is not None
        assert after.description.capabilities.reports_pages is Answer.YES
        capsys.readouterr()
        assert main(["enable", "plain", "--period", "7"]) == 0
        assert "device_add" not in capsys.readouterr().out
        assert main(["enable", "plain", "--off"]) == 2


def test_a_machine_that_takes_nothing_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, "-m", "64M", machine="q35") as process:
        assert main(["enable", str(process.pid), "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "not now:" in shown
    assert "pcie-root-port" in shown


def test_statistics_are_turned_on_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, "-m", "64M", *BALLOON) as process:
        vm = described(process)
        assert state_of(vm).statistics_period_s == 0
        assert main(["enable", str(process.pid), "--statistics"]) == 0
        assert state_of(vm).statistics_period_s == 5
        assert main(["enable", str(process.pid), "--statistics", "--period", "0"]) == 0
        assert state_of(vm).statistics_period_s == 0
        assert main(["enable", str(process.pid), "--statistics", "--off"]) == 2
    assert "every 5 s" in capsys.readouterr().out


def test_statistics_need_a_balloon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "-m", "64M") as process:
        assert main(["enable", str(process.pid), "--statistics"]) == 1
    assert "no balloon" in capsys.readouterr().err


def test_a_vm_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "available", lambda: False)
    assert main(["enable", "no such VM"]) == 2
    assert "no such VM" in capsys.readouterr().err
