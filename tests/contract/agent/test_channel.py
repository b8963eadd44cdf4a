"""The real agent service, on a fake guest, its port a terminal: asked, flooded, left alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socketserver
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_vmm import listening

from giveback.accounting.usage import GuestSource
from giveback.guest.protocol import AGENT_VSOCK_PORT, from_agent
from giveback.guest.query import ask_agent, read_pages
from giveback.vmm.base import Channel, ChannelKind, VmDescription
from giveback_agent.host_link.json_lines import LINE_LIMIT_BYTES
from giveback_agent.host_link.link import VSOCK_PORT

SAMPLES = Path(__file__).parents[2] / "unit/helpers/agent_kernel_files"
DEADLINE_S = 60.0
FREE = (1 << 10).to_bytes(8, "little")
Message = dict[str, object]


class Guest:
    """A running service and the host's end of its port."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.host, port = os.openpty()
        tty.setraw(port)
        os.set_blocking(self.host, False)
        names = ("meminfo", "stat", "buddyinfo", "zoneinfo", "vmstat")
        files = {f"proc/{name}": (SAMPLES / name).read_bytes() for name in names}
        files["proc/kpageflags"] = FREE * 4096
        files["sys/class/virtio-ports/vport0p1/name"] = b"org.giveback.agent.0\n"
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        (folder / "dev").mkdir()
        (folder / "dev/vport0p1").symlink_to(os.ttyname(port))
        self._port = port
        self._partial = b""
        self.service = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "giveback_agent", "--root", str(self.root), "run"]
        # In a session of its own it is weighed as a group, and SCHED_IDLE within it costs no time.
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def say(self, data: bytes) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while data:
            assert time.monotonic() < deadline
            _, writable, _ = select.select([], [self.host], [], 1)
            if writable:
                data = data[os.write(self.host, data[:2048]) :]

    def hear(
        self, wanted: Callable[[Message], bool], patience_s: float = DEADLINE_S
    ) -> list[Message]:
        """All messages up to the one that is wanted, or those that come while patience lasts."""
        found: list[Message] = []
        deadline = time.monotonic() + patience_s
        while True:
            while b"\n" in self._partial:
                line, _, self._partial = self._partial.partition(b"\n")
                if line:
                    found.append(json.loads(line))
                    if wanted(found[-1]):
                        return found
            if time.monotonic() > deadline:
                assert patience_s < DEADLINE_S, found
                return found
            if select.select([self.host], [], [], 0.2)[0]:
                self._partial += os.read(self.host, 65536)

    def stop(self) -> None:
        self.service.kill()
        self.service.wait()
        os.close(self.host)
        os.close(self._port)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    running = Guest(tmp_path)
    try:
        yield running
    finally:
        running.stop()


def is_event(name: str) -> Callable[[Message], bool]:
    return lambda message: message.get("event") == name


def test_the_service_answers_and_obeys(guest: Guest) -> None:
    assert guest.hear(is_event("hello"))[-1]["v"] == 1
    guest.say(b'{"v": 1, "ask": "memory", "id": 1}\n')
    told = from_agent(guest.hear(is_event("memory"))[-1], GuestSource.AGENT)
    assert told.problems == ()
    assert told.pcp_bytes
    guest.say(b'{"v": 1, "id": 2, "urgency": 2, "lease_s": 600}\n')
    taken = guest.hear(is_event("urgency"))[-1]
    assert (taken["id"], taken["urgency"], taken["lease_s"]) == (2, 2, 600.0)


def test_rubbish_and_floods_harm_nothing(guest: Guest) -> None:
    guest.hear(is_event("hello"))
    for rubbish in (b"\xff\0\n", b"[[[[\n", b"x" * 9000 + b"\n", b'{"ask": {}}\n' * 500):
        guest.say(rubbish)
    # What came among the flood is lost; when it is over there is an answer, and no line is broken.
    answers: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while not any(is_event("pages")(message) for message in answers):
        assert time.monotonic() < deadline
        guest.say(b'\n{"ask": "pages", "id": 7}\n')
        answers = guest.hear(lambda m: m.get("id") == 7 and m["event"] != "memory", 2)
    assert guest.service.poll() is None


def test_a_service_that_was_killed_leaves_the_port_to_the_next(guest: Guest) -> None:
    guest.hear(is_event("hello"))
    guest.service.send_signal(signal.SIGKILL)
    guest.service.wait()
    guest.service = guest.start()
    guest.hear(is_event("hello"))
    guest.say(b'\n{"ask": "memory", "id": 9}\n')
    assert guest.hear(is_event("memory"))[-1]["id"] == 9


def test_a_stopped_service_ends_its_answer(guest: Guest) -> None:
    guest.hear(is_event("hello"))
    guest.say(b'{"ask": "pages", "id": 1}\n')
    guest.hear(is_event("memory"))
    guest.service.terminate()
    assert guest.service.wait(DEADLINE_S) == 0


def bridge(guest: Guest) -> type[socketserver.BaseRequestHandler]:
    """Cloud Hypervisor's and Firecracker's end of vsock, spoken to the real service."""

    class Vmm(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if self.rfile.readline() != f"CONNECT {AGENT_VSOCK_PORT}\n".encode():
                return
            self.wfile.write(b"OK 1073741824\n")
            ended, end = os.pipe()

            def up() -> None:
                with contextlib.suppress(OSError):
                    while ended not in (ready := select.select([guest.host, ended], [], [])[0]):
                        self.wfile.write(os.read(ready[0], LINE_LIMIT_BYTES))

            thread = threading.Thread(target=up)
            thread.start()
            try:
                while line := self.rfile.readline():
                    guest.say(line)
            finally:
                os.close(end)
                thread.join()
                os.close(ended)

    return Vmm


def test_the_host_asks_the_real_service_in_the_vmms_dialect(guest: Guest, tmp_path: Path) -> None:
    assert VSOCK_PORT == AGENT_VSOCK_PORT
    guest.hear(is_event("hello"))
    channel = Channel(ChannelKind.HYBRID_VSOCK, path=str(tmp_path / "v.sock"), pid=os.getpid())
    vm = VmDescription("firecracker", "one", 1, 1 << 30, (), channels=(channel,))
    with listening(tmp_path / "v.sock", bridge(guest)):
        said = asyncio.run(ask_agent(channel, "memory", DEADLINE_S))
        assert from_agent(said, GuestSource.AGENT).total_bytes
        # At once after the first: the agent asks for patience, and the host has it.
        assert asyncio.run(read_pages(vm, DEADLINE_S))["pages"]
