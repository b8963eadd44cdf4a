"""`giveback enable` on a running plain QEMU: options for its next start, and changes over QMP."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from typing import TYPE_CHECKING, cast

from real_qemu import described, running

from giveback.cli import main
from giveback.errors import VmError
from giveback.vmm.backends import libvirt
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Answer, VmDescription, VmState
from giveback.vmm.clients.qmp import monitor

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BALLOON = ["-device", "virtio-balloon-pci,id=b,free-page-reporting=on"]


def state_of(vm: VmDescription) -> VmState:
    return asyncio.run(QemuBackend().inspect(vm, timeout_s=10))


def test_a_plain_qemu_gets_the_options_that_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes no difference whether libvirt-python is installed: it is not needed."""
    monkeypatch.setattr(libvirt, "available", lambda: False)
    with running(tmp_path, "-m", "64M", "-name", "plain", machine="pc") as process:
        vm = described(process)
        assert main(["enable", str(process.pid)]) == 0
        shown = capsys.readouterr().out
        assert "-device virtio-balloon-pci,free-page-reporting=on" in shown
        assert "-device virtserialport,chardev=giveback,name=org.giveback.agent.0" in shown
        assert "-qmp" not in shown  # it has one
        assert "on the command line that it gets from " in shown
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


def test_a_machine_that_accepts_no_device_now(
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


AGENT_PORT = [
    "-device", "virtio-serial-pci", "-chardev", "socket,id=c,path={dir}/agent,server=on,wait=off",
    "-device", "virtserialport,chardev=c,name=org.giveback.agent.0",
]  # fmt: skip


def findings(capsys: pytest.CaptureFixture[str], pid: int, code: int) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["doctor", str(pid), "--json"]) == code
    (found,) = json.loads(capsys.readouterr().out)
    listed = found["findings"]
    assert isinstance(listed, list)
    return listed


def test_doctor_leads_to_commands_that_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guest (here its firmware) runs without an agent, and polling is off."""

    async def run() -> None:
        async with monitor(str(tmp_path / "qmp"), process.pid, 10) as session:
            await session.execute("cont")

    words = ["-m", "64M", "-name", f"led {os.getpid()}", *BALLOON, *AGENT_PORT]
    with running(tmp_path, *words) as process:
        assert not any("install" in str(f["remedy"]) for f in findings(capsys, process.pid, 1))
        asyncio.run(run())
        found = findings(capsys, process.pid, 1)
        assert "no giveback-agent" in str(found[0]["what"])
        assert "no program in the guest has opened this port" in str(found[0]["evidence"])
        assert any("install" in line for line in cast("list[str]", found[0]["commands"]))
        assert main(["explain", str(process.pid)]) == 0
        _, _, remedies = capsys.readouterr().out.partition("what would bring it back:\n")
        assert remedies.splitlines()[0].endswith("no giveback-agent in this guest: install it")
        (off,) = (f for f in found if "polling is off" in str(f["what"]))
        (line,) = cast("list[str]", off["commands"])
        assert main(shlex.split(line)[1:]) == 0
        after = findings(capsys, process.pid, 1)
    assert not any("polling is off" in str(f["what"]) for f in after)
    assert not any("stuck" in str(f["what"]) for f in (*found, *after))


def test_statistics_need_a_balloon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "-m", "64M") as process:
        assert main(["enable", str(process.pid), "--statistics"]) == 1
    assert "no balloon" in capsys.readouterr().err


def test_a_vm_that_does_not_exist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "available", lambda: False)
    assert main(["enable", "no such VM"]) == 2
    assert "no such VM" in capsys.readouterr().err
    # A stopped domain would be libvirt's; the second half of the message says that libvirt is missing.
    monkeypatch.setattr(libvirt, "available", lambda: True)

    def fails(name: str, pid: int | None, uri: str) -> str:
        raise VmError(f"{uri}: is libvirtd running? {name} {pid}")

    monkeypatch.setattr(libvirt, "persistent_xml", fails)
    assert main(["enable", "no such VM"]) == 2
    refused = capsys.readouterr().err
    assert "no VM that runs is called 'no such VM', nor a domain: " in refused
    assert "is libvirtd running?" in refused
