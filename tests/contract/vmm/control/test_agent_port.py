"""The agent's port is plugged into real QEMUs of several machine types."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from peers import emulator, environment_of
from real_qemu import described, program_words, running, wait_for_socket

from giveback.cli import main
from giveback.errors import InputError, VmError
from giveback.host.procs import read_process
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Answer, ChannelKind
from giveback.vmm.control import agent_port

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.vmm.base import VmDescription


BUS = ["-device", "virtio-serial-pci"]
SPARE = ["-device", "pcie-root-port,id=spare,chassis=9"]


def plugged(vm: VmDescription) -> VmDescription:
    """The VM as its monitor describes it afterwards: its command line does not show the port."""
    state = asyncio.run(QemuBackend().inspect(vm, timeout_s=10))
    assert state.problems == ()
    assert state.description is not None
    return state.description


@pytest.mark.parametrize(
    ("machine", "words", "steps"),
    [
        ("pc", [], ["chardev-add", "device_add", "device_add"]),
        ("pc", BUS, ["chardev-add", "device_add"]),
        ("q35", BUS, ["chardev-add", "device_add"]),
        ("q35", SPARE, ["chardev-add", "device_add", "device_add"]),
    ],
)
def test_a_port_is_plugged_in_and_found(
    machine: str, words: list[str], steps: list[str], tmp_path: Path
) -> None:
    with running(tmp_path, "-m", "64M", *words, machine=machine) as process:
        vm = described(process)
        planned = asyncio.run(agent_port.plan(vm))
        assert [step.command for step in planned.steps] == steps
        channel = asyncio.run(agent_port.carry_out(planned))
        with socket.socket(socket.AF_UNIX) as host_end:
            host_end.connect(channel.path)
            found = plugged(vm)
        assert found.channels == (channel,)
        assert found.channels[0].kind is ChannelKind.VIRTIO_SERIAL
        assert found.capabilities.agent_channel is Answer.YES
        # Also if no client is connected.
        assert plugged(vm).channels == (channel,)
        for again in (vm, found):
            with pytest.raises(InputError, match="already"):
                asyncio.run(agent_port.plan(again))


def test_a_machine_without_a_free_bus_is_refused(tmp_path: Path) -> None:
    for machine, why in (("q35", "root port"), ("microvm", "without PCI")):
        directory = tmp_path / machine
        directory.mkdir()
        with (
            running(directory, "-m", "64M", machine=machine) as process,
            pytest.raises(InputError, match=why),
        ):
            asyncio.run(agent_port.plan(described(process)))


def test_a_plan_that_fails_half_way_is_undone(tmp_path: Path) -> None:
    taken = ["-device", "ich9-intel-hda,id=giveback-agent"]
    with running(tmp_path, "-m", "64M", *BUS, *taken, machine="pc") as process:
        vm = described(process)
        planned = asyncio.run(agent_port.plan(vm))
        with pytest.raises(VmError, match=r"refuses device_add.*giveback-agent"):
            asyncio.run(agent_port.carry_out(planned))
        # The socket's chardev was removed again: the plan is the same.
        assert asyncio.run(agent_port.plan(vm)) == planned


def test_the_command_shows_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"plug-{os.getpid()}"
    with running(tmp_path, "-m", "64M", "-name", name, machine="pc") as process:
        command = ["enable", name, "--agent-port", "--port-socket", f"{tmp_path}/chosen"]
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert "chardev-add" in shown
        assert "virtio-serial-pci" in shown
        assert "nothing was changed" in shown
        assert not (tmp_path / "chosen").exists()
        assert main([*command, "--yes"]) == 0
        assert "plugged in" in capsys.readouterr().out
        assert (tmp_path / "chosen").is_socket()
        assert main(command) == 2
        assert "already" in capsys.readouterr().err
        assert process.pid
    with running(tmp_path, "-m", "64M", "-name", name, "-monitor", "none") as process:
        assert main(["enable", name, "--agent-port", "--port-socket", "/" + "x" * 200]) == 2
        assert "too long for a socket's path" in capsys.readouterr().err
        assert process.pid


def test_the_port_of_a_vm_with_a_relative_monitor_path_is_beside_it(tmp_path: Path) -> None:
    command = [
        *program_words(),
        "-S",
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
        "-m",
        "64M",
        "-M",
        "pc",
    ]
    command += ["-qmp", "unix:mon.sock,server=on,wait=off"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment_of(emulator())) as qemu:
        try:
            wait_for_socket(tmp_path / "mon.sock", qemu, tmp_path / "none")
            process = read_process("/", qemu.pid)
            assert process is not None
            planned = asyncio.run(agent_port.plan(described(process)))
            assert planned.socket == "mon-giveback-agent.sock"
            channel = asyncio.run(agent_port.carry_out(planned))
            assert (tmp_path / planned.socket).samefile(channel.path)
            assert plugged(described(process)).channels == (channel,)
        finally:
            qemu.kill()
