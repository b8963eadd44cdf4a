"""One VM in every spelling that QEMU accepts: each is found and described alike, and its monitor answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from peers import emulator
from real_qemu import is_listening

from giveback.accounting.reporting import reporting_label
from giveback.guest.observe import observe
from giveback.host.procs import Process, read_process
from giveback.reporters import vm_table
from giveback.vmm.backends import qemu_options
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Answer
from giveback.vmm.clients.qmp import monitor
from giveback.vmm.find import find
from giveback_lab.vms.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


def chosen_qemu(program: str) -> Emulator:
    """Return the QEMU of the lab (`lab`), or the installed one (`installed`), which is often older."""
    if program == "lab":
        return emulator()
    path = shutil.which("qemu-system-x86_64")
    if path is None:
        pytest.skip("no QEMU is installed here")
    return Emulator(Path(path), "")


BALLOON = ["-device", "virtio-balloon-pci,free-page-reporting=on"]
SOCKET = "{dir}/q"
QMP = ["-qmp", f"unix:{SOCKET},server=on,wait=off"]
CHARDEV = f"socket,id=c,path={SOCKET},server=on,wait=off"


@contextlib.contextmanager
def started(
    directory: Path, words: list[str], argv0: str = "microvm@web", program: str = "lab"
) -> Iterator[Process]:
    """A paused QEMU under another name, once it has a monitor."""
    chosen = chosen_qemu(program)
    given = [word.replace("{dir}", str(directory)) for word in words]
    common = ["-S", "-nodefaults", "-display", "none", "-machine", "accel=tcg", *chosen.arguments]
    with (directory / "log").open("wb") as log:
        qemu = subprocess.Popen(
            [argv0, *common, *given],
            executable=chosen.program,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **chosen.environment},
        )
    try:
        deadline = time.monotonic() + 60
        while not listens(directory / "q"):
            assert qemu.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, "QEMU opened no monitor in 60 s"
            time.sleep(0.01)
        process = read_process("/", qemu.pid)
        assert process is not None
        yield process
    finally:
        qemu.kill()
        qemu.wait()


def listens(path: Path) -> bool:
    names = Path("/proc/net/unix").read_text()
    return is_listening(path) or f"@{path}" in names or f":{TCP_PORT}" in names or tcp_listens()


TCP_PORT = 20000 + os.getpid() % 10000


def tcp_listens() -> bool:
    local = f":{TCP_PORT:04X}"
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in tables.splitlines()]
    return any(row[1].endswith(local) and row[3] == "0A" for row in rows if len(row) > 3)


MONITORS = {
    "colon": QMP,
    "path= (kata-containers#7953)": ["-qmp", f"unix:path={SOCKET},server=on,wait=off"],
    "options first": ["-qmp", f"unix:server=on,wait=off,path={SOCKET}"],
    "old flags": ["-qmp", f"unix:{SOCKET},server,nowait"],
    "two dashes": ["--qmp", f"unix:{SOCKET},server=yes,wait=no"],
    "pretty": ["-qmp-pretty", f"unix:{SOCKET},server=true,wait=false"],
    "relative": ["-qmp", "unix:q,server=on,wait=off"],
    "mux": ["-qmp", f"mon:unix:{SOCKET},server=on,wait=off"],
    "mon": ["-chardev", CHARDEV, "-mon", "chardev=c,mode=control"],
    "mon first": ["-mon", "mode=control,chardev=c,pretty=on", "-chardev", CHARDEV],
    "mon implied": ["-chardev", CHARDEV, "-mon", "c,mode=control,id=m"],
    "chardev:": ["-chardev", CHARDEV, "-qmp", "chardev:c"],
    "chardev by name": ["-chardev", f"id=c,wait=off,server=on,path={SOCKET},backend=socket",
                        "-mon", "c,mode=control"],
    "after a human one": ["-chardev", "socket,id=h,path={dir}/h,server=on,wait=off",
                          "-mon", "h,mode=readline", "-monitor", "unix:{dir}/i,server,nowait", *QMP],
    "after one that dials": ["-chardev", "socket,id=e,path={dir}/none,reconnect=5",
                             "-mon", "chardev=e,mode=control", *QMP],
    "after stdio": ["-qmp", "stdio", *QMP],
    "abstract": ["-chardev", f"socket,id=c,path={SOCKET},server=on,wait=off,abstract=on,tight=on",
                 "-mon", "c,mode=control"],
    "abstract, padded": ["-chardev",
                         f"socket,id=c,path={SOCKET},server=on,wait=off,abstract=on,tight=off",
                         "-mon", "c,mode=control"],
    "tcp": ["-qmp", f"tcp:127.0.0.1:{TCP_PORT},server=on,wait=off"],
    "tcp everywhere": ["-qmp", f"tcp::{TCP_PORT},server,nowait"],
    "tcp chardev": ["-chardev", f"socket,id=c,host=localhost,port={TCP_PORT},server=on,wait=off",
                    "-mon", "c,mode=control"],
    "set": ["-chardev", f"socket,id=c,path={SOCKET},wait=off", "-set", "chardev.c.server=on",
            "-mon", "c,mode=control"],
    "after what looks like an option": ["-D", "-m", *QMP],
}  # fmt: skip


@pytest.mark.parametrize("words", MONITORS.values(), ids=list(MONITORS))
def test_every_monitor_is_found(words: list[str], tmp_path: Path) -> None:
    with started(tmp_path, ["-name", "web", "-m", "64M", *words]) as process:
        vm = QemuBackend().recognise(process)
        assert vm is not None
        state = asyncio.run(QemuBackend().inspect(vm, timeout_s=10))
    assert (vm.name, vm.ram_bytes) == ("web", 64 * MIB)
    assert state.problems == ()
    assert state.ram_bytes == 64 * MIB


REPORTING = {
    "device": (BALLOON, True),
    "last wins": (["-device", "virtio-balloon-pci,free-page-reporting=on,free-page-reporting=off"],
                  False),
    "yes": (["-device", "driver=virtio-balloon-pci,id=b,free-page-reporting=true"], True),
    "json": (["-device", '{"driver":"virtio-balloon-pci","id":"b","free-page-reporting":true}'],
             True),
    "global": (["-device", "virtio-balloon-pci",
                "-global", "virtio-balloon-pci.free-page-reporting=on"], True),
    "global before": (["-global", "virtio-balloon-pci.free-page-reporting=on",
                       "-device", "virtio-balloon-pci"], True),
    "global of the inner device": (["-global", "virtio-balloon-device.free-page-reporting=on",
                                    "-device", "virtio-balloon-pci"], True),
    "global in full": (["-global", "driver=virtio-balloon-pci,property=free-page-reporting,value=on",
                        "-device", "virtio-balloon-pci"], True),
    "the last global": (["-global", "virtio-balloon-pci.free-page-reporting=on",
                         "-global", "virtio-balloon-pci.free-page-reporting=off",
                         "-device", "virtio-balloon-pci"], False),
    "outer over inner": (["-global", "virtio-balloon-pci.free-page-reporting=off",
                          "-global", "virtio-balloon-device.free-page-reporting=on",
                          "-device", "virtio-balloon-pci"], False),
    "another's global": (["-global", "virtio-balloon-pci.free-page-reporting=on",
                          "-device", "virtio-balloon-pci-non-transitional"], False),
    "device over global": (["-global", "virtio-balloon-pci.free-page-reporting=on",
                            "-device", "virtio-balloon-pci,free-page-reporting=off"], False),
    "set": (["-device", "virtio-balloon-pci,id=b", "-set", "device.b.free-page-reporting=on"], True),
    "transitional": (["-device", "virtio-balloon-pci-transitional,free-page-reporting=on"], True),
    "non-transitional": (["-device", "virtio-balloon-pci-non-transitional,free-page-reporting=on"],
                         True),
    "alias": (["-device", "virtio-balloon,free-page-reporting=on"], True),
    "alias and global": (["-device", "virtio-balloon",
                          "-global", "virtio-balloon-pci.free-page-reporting=on"], True),
    "mmio": (["-M", "microvm", "-device", "virtio-balloon-device,free-page-reporting=on"], True),
    "config": (["-readconfig", "{dir}/conf"], True),
}  # fmt: skip
CONFIG = """# as a manager writes it
[device "qemu_balloon"]
driver = "virtio-balloon-pci"

[global]
driver = "virtio-balloon-pci"
property = "free-page-reporting"
value = "on"
"""


@pytest.mark.parametrize("program", ["installed", "lab"])
@pytest.mark.parametrize("case", REPORTING, ids=list(REPORTING))
def test_reporting_is_found_wherever_it_is_set(case: str, program: str, tmp_path: Path) -> None:
    words, offered = REPORTING[case]
    (tmp_path / "conf").write_text(CONFIG)
    machine = [] if "-M" in words else ["-M", "q35"]
    with started(tmp_path, [*machine, "-m", "64M", *QMP, *words], program=program) as process:
        vm = QemuBackend().recognise(process)
        assert vm is not None
        seen = asyncio.run(observe(QemuBackend(), vm, timeout_s=10))
    # The command line alone tells it, and the monitor agrees.
    assert (vm.capabilities.balloon, vm.capabilities.reports_pages) == (
        Answer.YES,
        Answer.of(offered),
    )
    assert vm.unread == ()
    assert seen.vm.capabilities.reports_pages is Answer.of(offered)


def test_the_monitor_overrides_the_command_line(tmp_path: Path) -> None:
    """Management tools may plug in a balloon later."""

    async def plug() -> None:
        async with monitor(str(tmp_path / "q"), process.pid, 10) as session:
            await session.execute(
                "device_add", **{"driver": "virtio-balloon-pci", "free-page-reporting": True}
            )

    with started(tmp_path, ["-M", "pc", "-m", "64M", *QMP]) as process:
        vm = QemuBackend().recognise(process)
        assert vm is not None
        before = asyncio.run(observe(QemuBackend(), vm, timeout_s=10))
        asyncio.run(plug())
        after = asyncio.run(observe(QemuBackend(), vm, timeout_s=10))
    assert reporting_label(before.vm, before.state, before.guest) == "no device"
    assert after.vm.capabilities.balloon is Answer.YES
    assert after.vm.capabilities.reports_pages is Answer.YES


INCUS = """# Machine
[machine]
graphics = "off"
type = "q35"
accel = "tcg"
usb = "off"

[memory]
size = "192M"

[device "qemu_pcie0"]
driver = "pcie-root-port"
bus = "pcie.0"
addr = "1.0"
multifunction = "on"
chassis = "1"

[device "qemu_balloon"]
driver = "virtio-balloon-pci"
bus = "qemu_pcie0"
addr = "00.0"
free-page-reporting = "on"

[device "dev-qemu_serial"]
driver = "virtio-serial-pci"
bus = "pcie.0"

[chardev "agent"]
backend = "socket"
path = "{dir}/agent"
server = "on"
wait = "off"

[device "port"]
driver = "virtserialport"
name = "org.giveback.agent.0"
chardev = "agent"
bus = "dev-qemu_serial.0"

[object "mem0"]
qom-type = "memory-backend-memfd"
size = "192M"
share = "on"

[numa]
type = "node"
nodeid = "0"
memdev = "mem0"

[chardev "monitor"]
backend = "socket"
path = "{dir}/q"
server = "on"
wait = "off"

[mon]
chardev = "monitor"
mode = "control"
"""


@pytest.mark.parametrize("program", ["installed", "lab"])
def test_a_config_file_is_read(program: str, tmp_path: Path) -> None:
    """lxc/incus#2003."""
    (tmp_path / "conf").write_text(INCUS.replace("{dir}", str(tmp_path)))
    words = ["-name", "v1", "-no-user-config", "-readconfig", "{dir}/conf"]
    with started(tmp_path, words, program=program) as process:
        vm = QemuBackend().recognise(process)
        assert vm is not None
        seen = asyncio.run(observe(QemuBackend(), vm, timeout_s=10))
        assert Path(vm.channels[0].path).samefile(tmp_path / "agent")
    assert (vm.name, vm.ram_bytes, vm.unread) == ("v1", 192 * MIB, ())
    assert vm.capabilities.reports_pages is Answer.YES
    assert vm.capabilities.agent_channel is Answer.YES
    assert [(b.name, b.shared) for b in vm.ram_blocks] == [("mem0", True)]
    assert seen.host is not None
    assert seen.host.placed


def test_a_config_file_that_was_deleted(tmp_path: Path) -> None:
    """Unknown settings are marked as unknown; a monitor, if there is one, tells all of them."""
    config = INCUS.replace("{dir}", str(tmp_path))
    (tmp_path / "conf").write_text(config)
    with started(tmp_path, ["-name", "v1", "-readconfig", "{dir}/conf"]) as process:
        whole = QemuBackend().recognise(process)
        (tmp_path / "conf").unlink()
        vm = QemuBackend().recognise(process)
        assert vm is not None
        assert whole is not None
        seen = asyncio.run(observe(QemuBackend(), vm, timeout_s=10))
    assert (vm.ram_bytes, vm.ram_blocks, vm.control) == (0, (), "")
    assert {vm.capabilities.balloon, vm.capabilities.reports_pages} == {Answer.UNKNOWN}
    assert vm.unread == (f"-readconfig {tmp_path}/conf cannot be read",)
    assert reporting_label(seen.vm, seen.state, seen.guest) == "?"
    assert vm_table.documents([seen])[0]["ram_bytes"] is None
    assert " ? " in vm_table.text([seen]).splitlines()[1]
    assert any("cannot be read" in problem for problem in seen.problems)
    with started(tmp_path, ["-readconfig", "/dev/stdin", "-name", "v2", "-m", "64M", *QMP,
                            "-M", "q35", *BALLOON]) as process:  # fmt: skip
        bare = QemuBackend().recognise(process)
        assert bare is not None
        told = asyncio.run(observe(QemuBackend(), bare, timeout_s=10))
    assert bare.unread
    assert bare.capabilities.agent_channel is Answer.UNKNOWN
    assert told.vm.unread == ()
    assert (told.vm.ram_bytes, told.vm.machine) == (64 * MIB, "q35")
    assert told.vm.capabilities.agent_channel is Answer.NO
    assert told.vm.capabilities.reports_pages is Answer.YES
    assert told.host is not None
    assert told.host.placed


def test_a_monitor_replaces_a_deleted_config_file(tmp_path: Path) -> None:
    """All of the VM except its monitor was configured in a file that was deleted."""
    config = INCUS.replace("{dir}", str(tmp_path)).partition('[chardev "monitor"]')[0]
    (tmp_path / "conf").write_text(config)
    with started(tmp_path, ["-readconfig", "{dir}/conf", *QMP]) as process:
        (tmp_path / "conf").unlink()
        vm = QemuBackend().recognise(process)
        assert vm is not None
        seen = asyncio.run(observe(QemuBackend(), vm, layout=True, timeout_s=10))
        assert [Path(c.path).samefile(tmp_path / "agent") for c in seen.vm.channels] == [True]
    assert [(b.name, b.size_bytes, b.shared) for b in seen.vm.ram_blocks] == [
        ("mem0", 192 * MIB, True)
    ]
    assert seen.vm.capabilities.agent_channel is Answer.YES
    assert seen.vm.capabilities.reports_pages is Answer.YES
    assert seen.host is not None
    assert seen.host.placed
    assert seen.problems == ()


@pytest.mark.parametrize(
    "argv0", ["microvm@web", "kvm", "/nix/store/x/bin/qemu-system-x86_64", "a b"]
)
def test_a_microvm_under_another_name(argv0: str, tmp_path: Path) -> None:
    """microvm-nix/microvm.nix#198."""
    words = ["-name", "web", "-M", "microvm", "-m", "256M", *QMP,
             "-device", "virtio-balloon-device,free-page-reporting=on"]  # fmt: skip
    with started(tmp_path, words, argv0) as process:
        (vm,) = (vm for _, vm in find() if vm.pid == process.pid)
    assert (vm.name, vm.ram_bytes) == ("web", 256 * MIB)
    assert vm.capabilities.reports_pages is Answer.YES


def test_ram_from_a_backend_alone(tmp_path: Path) -> None:
    words = ["-M", "q35,memory-backend=m", "-object",
             json.dumps({"qom-type": "memory-backend-memfd", "id": "m", "size": 192 * MIB})]  # fmt: skip
    with started(tmp_path, [*words, *QMP]) as process:
        vm = QemuBackend().recognise(process)
        assert vm is not None
        state = asyncio.run(QemuBackend().inspect(vm, timeout_s=10))
    assert vm.ram_bytes == state.ram_bytes == 192 * MIB


@pytest.mark.parametrize("program", ["installed", "lab"])
def test_options_with_a_value_agree_with_qemus_help(program: str) -> None:
    chosen = chosen_qemu(program)
    text = subprocess.run(
        [chosen.program, "-help"], capture_output=True, text=True, check=True,
        env={**os.environ, **chosen.environment},
    ).stdout  # fmt: skip
    named = set(re.findall(r"^-(-?[a-zA-Z][\w-]*)$|^-([a-zA-Z][\w-]*)\t+", text, re.MULTILINE))
    flags = {a or b for a, b in named} - {"usbdevice"}
    listed = {word.lstrip("-") for word in flags}
    known = {name for name in listed if name in qemu_options._FLAGS}
    valued = {"smp", "tb-size", "accel"}
    assert listed - known <= valued | listed_with_value(text)


def listed_with_value(text: str) -> set[str]:
    return set(re.findall(r"^-([a-zA-Z][\w-]*) +(?:\[|<|\w+[=|,]|[a-z]+\b)", text, re.MULTILINE))
