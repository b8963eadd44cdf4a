"""The sum is bounded, too: what one user's processes send or are does not take the daemon from the others."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socketserver
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from manager_process import Manager
from named_python import ENVIRONMENT, STAND_IN, python_named
from scripted_guests import Host
from scripted_vmm import descriptors_of, listening
from scripted_vms import Monitor

FAKES = 8
LIMIT_BYTES = 1 << 30
ANSWER = "[]," * ((4 << 20) // 3 - 100)
EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME", "data": {}}\n'


class Flood(socketserver.BaseRequestHandler):
    """A monitor that answers each question with 4 MiB of arrays, and then sends events for ever."""

    asked = 0

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
            self.request.recv(1 << 16)
            self.request.sendall(b'{"return": {}}\n')
            number = json.loads(self.request.recv(1 << 16))["id"]
            Flood.asked += 1
            self.request.sendall(f'{{"return": [{ANSWER} []], "id": "{number}"}}\n'.encode())
            while True:
                self.request.sendall(EVENT * 1000)


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(Host(tmp_path))


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def test_monitors_that_send_without_end_take_neither_the_daemon_nor_its_memory(
    manager: Manager, tmp_path: Path
) -> None:
    Flood.asked = 0
    with contextlib.ExitStack() as stack:
        for number in range(FAKES):
            path = tmp_path / f"fake-{number}.q"
            stack.enter_context(listening(path, Flood))
            stack.enter_context(
                manager.host.guest(
                    f"fake-{number}", ram_mib=8, held_mib=1, has_agent=False, monitor=str(path)
                )
            )
        stack.enter_context(manager.host.guest("honest", ram_mib=8, held_mib=4))
        daemon = stack.enter_context(manager.running(address_space_bytes=LIMIT_BYTES))
        manager.until(lambda: Flood.asked >= FAKES)
        manager.until(
            lambda: all(manager.vm(f"fake-{number}").get("errors") for number in range(FAKES))
        )
        manager.until(lambda: manager.vm("honest").get("condition") == "ok")
        assert daemon.poll() is None
        soft, _ = resource.prlimit(daemon.pid, resource.RLIMIT_AS)
        assert soft == LIMIT_BYTES
        assert peak_bytes(daemon.pid) < LIMIT_BYTES // 2


STRANGER = 12345
# Forks as many VMs as it is told, of another user; they end with it.
_CROWD = """
import ctypes, os, sys, time
pids = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        os.setuid(int(sys.argv[2]))
        ctypes.CDLL(None).prctl(1, 9)
        time.sleep(1e6)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
"""


class Hanging(socketserver.BaseRequestHandler):
    """A monitor that says nothing."""

    def handle(self) -> None:
        self.request.recv(1)


class Paused(Monitor):
    answers = Monitor.answers | {"query-status": {"running": False}}


@contextlib.contextmanager
def crowd(host: Host, count: int, monitor: str = "") -> Iterator[None]:
    """So many processes of one stranger that say that they are VMs, with this monitor."""
    words = ["-qmp", f"unix:{monitor},server=on,wait=off"] if monitor else []
    if monitor:
        os.chown(monitor, STRANGER, STRANGER)
    child = subprocess.Popen(
        [
            "/opt/qemu-system-x86_64",
            "-S",
            "-c",
            _CROWD,
            str(count),
            str(STRANGER),
            "-m",
            "64M",
            *words,
        ],
        executable=python_named(STAND_IN),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        pass_fds=descriptors_of(monitor),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    pids = [int(word) for word in child.stdout.readline().split()]
    try:
        for pid in pids:
            host.show(pid)
        yield
    finally:
        child.kill()
        child.stdin.close()
        child.stdout.close()
        child.wait()
        for pid in pids:
            host.hide(pid)


def test_hundreds_of_vms_of_one_user_that_hang_do_not_keep_the_daemon_from_another_users(
    manager: Manager, tmp_path: Path
) -> None:
    hanging, paused = tmp_path / "hanging.q", tmp_path / "paused.q"
    with (
        listening(hanging, Hanging),
        listening(paused, Paused),
        crowd(manager.host, 400, str(hanging)),
        manager.running(),
    ):
        manager.until(lambda: len((manager.status() or {"vms": []})["vms"]) == 400)
        with manager.host.guest("honest", ram_mib=8, held_mib=4, monitor=str(paused)):
            manager.until(lambda: manager.vm("honest").get("condition") == "paused")


def test_descriptors_that_one_users_vms_may_not_take_are_there_for_the_api_and_the_others(
    manager: Manager,
) -> None:
    with crowd(manager.host, 150), manager.running(descriptors=200) as daemon:
        manager.until(lambda: (manager.status() or {"problems": ()})["problems"])
        said = (manager.status() or {})["problems"]
        assert any(f"VMs of uid {STRANGER} are not watched" in problem for problem in said)
        with manager.host.guest("honest", ram_mib=8, held_mib=4):
            manager.until(lambda: manager.vm("honest").get("condition") == "ok")
        assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) < 150
