"""One suite for all backends: requirements for every VMM, whatever program answers."""

from __future__ import annotations

import asyncio
import os
import socketserver
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from scripted_vmm import listening, process

from giveback.errors import InputError
from giveback.host import smaps
from giveback.host.procs import Process
from giveback.vmm import find
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.backends.process import ProcessBackend
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.mapping import bind, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from giveback.vmm.base import Backend, VmDescription, VmState

MIB = 1 << 20
TIMEOUT_S = 0.5


@dataclass(frozen=True)
class Case:
    """A backend, and the command line of a VM with a control socket at `path`."""

    backend: Backend
    program: str
    words: Callable[[Path], list[str]]


CASES = {
    "qemu": Case(
        QemuBackend(),
        "qemu-system-x86_64",
        lambda path: ["-m", "64M", "-qmp", f"unix:{path},server=on,wait=off", "-name", "one"],
    ),
    "cloud-hypervisor": Case(
        CloudHypervisorBackend(),
        "cloud-hypervisor",
        lambda path: ["--api-socket", str(path), "--memory", "size=64M"],
    ),
    "firecracker": Case(
        FirecrackerBackend(), "firecracker", lambda path: ["--api-sock", str(path), "--id", "one"]
    ),
}


@dataclass(frozen=True)
class Running:
    case: Case
    process: Process
    vm: VmDescription
    path: Path


@pytest.fixture(params=list(CASES))
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    case = CASES[request.param]
    path = tmp_path / "one.sock"
    with process(case.program, *case.words(path), memory="anonymous:64:4") as found:
        vm = case.backend.recognise(found)
        assert vm is not None
        yield Running(case, found, vm, path)


def test_a_backend_recognises_only_its_own_vms(running: Running) -> None:
    assert (running.vm.name, running.vm.pid) == ("one", running.process.pid)
    assert running.vm.backend == running.case.backend.name
    for case in CASES.values():
        if case is not running.case:
            assert case.backend.recognise(running.process) is None
    for argv in ((), ("",), ("/bin/sh", "qemu-system-x86_64"), ("vim", "firecracker")):
        assert running.case.backend.recognise(Process(1, argv)) is None
    assert running.vm in [vm for _, vm in find.find()]
    assert find.choose(find.find(), str(running.vm.pid))[1] == running.vm


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("firecracker-v1.7.0-x86_64", "firecracker"),
        ("cloud-hypervisor-static", "cloud-hypervisor"),
        ("cloud-hypervisor-static-aarch64", "cloud-hypervisor"),
        ("firecracker-containerd", None),
        ("cloud-hypervisor-remote", None),
    ],
)
def test_a_program_is_recognised_by_its_release_name(program: str, kind: str | None) -> None:
    found = [b.recognise(Process(1, (f"/opt/{program}", "--id", "a"))) for b in find.backends()]
    assert [vm.backend for vm in found if vm is not None] == ([kind] if kind else [])


def test_its_ram_is_located(running: Running) -> None:
    blocks = running.vm.ram_blocks or ProcessBackend().describe(running.vm.pid).ram_blocks
    mappings = smaps.parse_smaps(smaps.read_smaps("/", running.vm.pid))
    (bound,) = bind(blocks, mappings)
    inside = within(mappings, bound.ranges)
    assert smaps.add(mapping.usage for mapping in inside).rss_bytes == 4 * MIB


def test_a_socket_that_does_not_exist(running: Running) -> None:
    assert "no such socket" in problem(running)


def test_a_socket_without_a_listener(running: Running) -> None:
    with listening(running.path, socketserver.BaseRequestHandler):
        pass
    assert "no program listens" in problem(running)


class _Hangs(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1)
        while self.request.recv(65536):
            pass


class _HangsUp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1)


class _Floods(socketserver.BaseRequestHandler):
    head = b""

    def handle(self) -> None:
        self.request.sendall(self.head)
        while True:
            self.request.sendall(b"x" * 65536)


class _FloodsHttp(_Floods):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


class _FloodsEvents(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        while True:
            self.request.sendall(b'{"event": "X", "timestamp": {"seconds": 1}}\r\n' * 1000)


class _Drips(socketserver.BaseRequestHandler):
    """A server that sends one byte at a time: each read succeeds, and the answer never ends."""

    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            self.request.sendall(b" ")
            time.sleep(0.01)


class _Garbage(socketserver.BaseRequestHandler):
    text = b"\x00\xff\x1b[2J not a protocol\r\n\r\n" * 3

    def handle(self) -> None:
        self.request.sendall(self.text)
        self.request.recv(65536)


class _NoJson(_Garbage):
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\x1b[2Jx"


class _DeepJson(_Garbage):
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200000


class _WrongTypes(socketserver.BaseRequestHandler):
    """A server that answers each request with a number, a list or text instead of an object."""

    def handle(self) -> None:
        self.request.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        while line := self.request.recv(65536):
            identity = line.partition(b'"id"')[2].partition(b'"')[2].partition(b'"')[0]
            self.request.sendall(b'{"return": ["x", {}, 1], "id": "%s"}\r\n' % identity)


HOSTILE = [_Hangs, _HangsUp, _Floods, _FloodsHttp, _FloodsEvents, _Drips, _Garbage, _NoJson]
HOSTILE += [_DeepJson, _WrongTypes]


@pytest.mark.parametrize("handler", HOSTILE, ids=lambda handler: handler.__name__)
def test_any_answer_is_bounded_and_a_problem_of_its_vm(
    running: Running, handler: type[socketserver.BaseRequestHandler]
) -> None:
    with listening(running.path, handler):
        state = asyncio.run(asyncio.wait_for(inspected(running), 10))
    assert state.balloon_bytes is None
    assert state.statistics is None
    if state.problems:
        assert str(running.path) in state.problems[0] or "no VM" in state.problems[0]
        assert all(len(problem) < 1000 for problem in state.problems)
    else:
        assert handler is _WrongTypes


def test_vms_that_hang_are_waited_for_concurrently(running: Running) -> None:
    together, met = threading.Barrier(5), threading.Event()

    class Meets(_Hangs):
        def handle(self) -> None:
            together.wait(30)  # raises unless five are connected at once
            met.set()
            super().handle()

    async def all_of_them() -> None:
        await asyncio.gather(*(inspected(running, 2.0) for _ in range(5)))

    with listening(running.path, Meets):
        asyncio.run(all_of_them())
        assert met.wait(30)


@pytest.mark.parametrize(
    "words",
    [
        ("qemu-kvm", "-qmp", "tcp:localhost:" + "9" * 5000 + ",server=on"),
        ("qemu-kvm", "-qmp", "tcp:a..b:44,server=on"),
        ("qemu-kvm", "-qmp", "tcp:\udc80:44,server=on"),
        ("qemu-kvm", "-qmp", "unix:/no such\udc80,server=on"),
        ("cloud-hypervisor", "--api-socket", "/no such\udc80"),
        ("cloud-hypervisor", "--api-socket", "/" + "\udc80" * 200),
        ("firecracker", "--api-sock", "no such\udc80\n"),
    ],
    ids=range(7),
)
def test_an_impossible_address_is_a_problem_of_its_vm(words: tuple[str, ...]) -> None:
    """Any user of the host may start a program of such a name."""
    (vm,) = (
        vm for b in find.backends() if (vm := b.recognise(Process(os.getpid(), words))) is not None
    )
    backend = next(b for b in find.backends() if b.name == vm.backend)
    assert asyncio.run(backend.inspect(vm, timeout_s=5)).problems


def test_a_vm_that_has_ended(tmp_path: Path) -> None:
    for case in CASES.values():
        with process(case.program, *case.words(tmp_path / "s")) as found:
            vm = case.backend.recognise(found)
        assert vm is not None
        assert asyncio.run(case.backend.inspect(vm)).problems


def test_a_pid_that_is_not_a_vm() -> None:
    with pytest.raises(InputError, match="no process"):
        ProcessBackend().describe(4_194_305)
    with process("sleepy") as found:
        with pytest.raises(InputError, match="has no mapping of"):
            ProcessBackend().describe(found.pid)
        assert ProcessBackend().recognise(found) is None
        assert ProcessBackend().describe(found.pid, ram_bytes=MIB).ram_bytes == MIB


def test_no_vm_of_that_name() -> None:
    with pytest.raises(InputError, match=r"no VM is called '\\x1b"):
        find.choose((), "\x1b[2J")


async def inspected(running: Running, timeout_s: float = TIMEOUT_S) -> VmState:
    return await running.case.backend.inspect(running.vm, layout=True, timeout_s=timeout_s)


def problem(running: Running) -> str:
    return asyncio.run(inspected(running)).problems[0]
