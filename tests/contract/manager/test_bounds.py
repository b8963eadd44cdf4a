"""The sum is bounded, too: what one user's processes send or are does not take the daemon from the others."""

from __future__ import annotations

import contextlib
import json
import resource
import socketserver
from pathlib import Path

import pytest
from manager_process import Manager
from scripted_guests import Host
from scripted_vmm import listening

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
