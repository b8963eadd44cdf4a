"""Sources of the guest's side: channels to the agent, the real qemu-ga, and the order of fallbacks."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import socketserver
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import environment_of, peer
from real_qemu import is_listening
from scripted_vmm import listening
from scripted_vms import Agent, Garbage

from giveback.accounting.usage import GuestSnapshot, GuestSource
from giveback.errors import VmError
from giveback.guest import via_daemon
from giveback.guest.protocol import AGENT_VSOCK_PORT
from giveback.guest.query import read_guest, read_pages
from giveback.vmm.base import BalloonStatistics, Channel, ChannelKind, VmDescription, VmState
from giveback.vmm.clients.owned import is_queued

MIB = 1 << 20
STATISTICS = BalloonStatistics(1000.0, 50 * MIB, 30 * MIB)


def told(*channels: Channel, statistics: BalloonStatistics | None = None) -> GuestSnapshot:
    vm = VmDescription("qemu", "one", 1, 64 * MIB, (), channels=channels)
    state = VmState(statistics=statistics)
    return asyncio.run(asyncio.wait_for(read_guest(vm, state, 1002.0, timeout_s=2), 10))


class Hybrid(Agent):
    """A vsock socket as of Cloud Hypervisor and Firecracker: the client sends CONNECT first."""

    answer = b"OK 1073741824\n"

    def handle(self) -> None:
        if self.rfile.readline() == f"CONNECT {AGENT_VSOCK_PORT}\n".encode():
            self.wfile.write(self.answer)
            super().handle()


class Refusing(Hybrid):
    answer = b"x" * 100 + b"\n"


def test_the_agent_over_hybrid_vsock(tmp_path: Path) -> None:
    path = tmp_path / "v"
    channel = Channel(ChannelKind.HYBRID_VSOCK, path=str(path), pid=os.getpid())
    with listening(path, Hybrid):
        guest = told(channel)
    assert (guest.source, guest.total_bytes) == (GuestSource.AGENT, 58 * MIB)
    path.unlink()
    with listening(path, Refusing):
        guest = told(channel)
    assert guest.source is GuestSource.NONE
    assert "not OK" in guest.problems[0]
    path.unlink()
    with listening(path, socketserver.BaseRequestHandler):
        assert "no program in the guest listens" in told(channel).problems[0]


def test_the_error_says_that_no_guest_has_the_cid() -> None:
    guest = told(Channel(ChannelKind.VSOCK, cid=4_000_000_000))
    assert guest.source is GuestSource.NONE
    assert "vsock 4000000000" in guest.problems[0]


def test_a_client_that_waits_behind_another_gets_the_reason(tmp_path: Path) -> None:
    """QEMU serves one client of a port; a second one can connect, and waits."""
    path = tmp_path / "a"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as other:
        server.bind(str(path))
        server.listen()
        other.connect(str(path))
        served, _ = server.accept()
        with served:
            assert not asyncio.run(is_queued(str(path), os.getpid()))
            guest = told(
                Channel(
                    ChannelKind.VIRTIO_SERIAL,
                    path=f"/proc/{os.getpid()}/root{path}",
                    pid=os.getpid(),
                )
            )
            assert "another program is connected to this port" in guest.problems[0]
    path.unlink()
    with listening(path, Silent):
        guest = told(Channel(ChannelKind.VIRTIO_SERIAL, path=str(path), pid=os.getpid()))
    assert "no giveback-agent runs there" in guest.problems[0]


def test_a_port_is_left_to_a_daemon_that_does_not_answer_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("giveback.guest.via_daemon._TIMEOUT_S", 0.2)
    monkeypatch.setattr(via_daemon, "default_path", lambda: str(tmp_path / "guests.sock"))
    path = tmp_path / "a"
    channel = Channel(ChannelKind.VIRTIO_SERIAL, path=str(path), pid=os.getpid())
    with listening(path, Agent), listening(tmp_path / "guests.sock", Silent):
        guest = told(channel, statistics=STATISTICS)
    assert guest.source is GuestSource.BALLOON
    assert "daemon may hold the agent's port, and does not answer in time" in guest.problems[0]
    path.unlink(missing_ok=True)
    with listening(path, Agent):
        # A daemon that has ended and left its socket behind does not hold the port.
        assert told(channel).source is GuestSource.AGENT


class Busy(Agent):
    """An agent that was asked shortly before: it refuses each request, and says when it answers again."""

    refusals = 1_000
    again_s = 5.0

    def reply(self, asked: dict[str, object]) -> None:
        if type(self).refusals > 0:
            type(self).refusals -= 1
            refusal = {"event": "error", "id": asked["id"], "text": "asked too often"}
            self.write(refusal | {"retry_s": self.again_s})
        else:
            super().reply(asked)


class BusyForAMoment(Busy):
    refusals = 1
    again_s = 0.3


def test_a_busy_agent_counts_as_running_and_is_waited_for_within_the_patience(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    channel = Channel(ChannelKind.VIRTIO_SERIAL, path=str(path), pid=os.getpid())
    with listening(path, Busy):
        guest = told(channel, statistics=STATISTICS)
    assert guest.source is GuestSource.BALLOON
    assert guest.agent_is_there
    assert "asked shortly before, and answers again in 5 s" in guest.problems[0]
    path.unlink()
    vm = VmDescription("qemu", "one", 1, 64 * MIB, (), channels=(channel,))
    with listening(path, BusyForAMoment):
        read = read_guest(vm, VmState(), 1002.0, timeout_s=0.2, patience_s=10)
        guest = asyncio.run(asyncio.wait_for(read, 10))
    assert guest.source is GuestSource.AGENT


class Silent(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline():
            pass


def test_an_agent_that_does_not_answer_does_not_get_the_long_time_for_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("giveback.guest.query.ALIVE_TIMEOUT_S", 0.2)
    path = tmp_path / "a"
    channels = (Channel(ChannelKind.VIRTIO_SERIAL, path=str(path), pid=os.getpid()),)
    vm = VmDescription("qemu", "one", 1, 64 * MIB, (), channels=channels)
    with listening(path, Silent), pytest.raises(VmError, match=r"no answer .* in 0\.2 s"):
        asyncio.run(asyncio.wait_for(read_pages(vm, timeout_s=60), 30))


def test_each_source_falls_back_to_the_next(tmp_path: Path) -> None:
    agent = Channel(ChannelKind.VIRTIO_SERIAL, path=str(tmp_path / "none"), pid=os.getpid())
    guest = told(agent, statistics=STATISTICS)
    assert (guest.source, guest.age_s, guest.total_bytes) == (GuestSource.BALLOON, 2.0, 50 * MIB)
    assert "no such socket" in guest.problems[0]
    path = tmp_path / "a"
    with listening(path, Garbage):
        guest = told(
            Channel(ChannelKind.VIRTIO_SERIAL, path=str(path), pid=os.getpid()),
            statistics=STATISTICS,
        )
    assert guest.source is GuestSource.BALLOON
    assert told().source is GuestSource.NONE


class LyingGuestAgent(socketserver.StreamRequestHandler):
    """A guest agent whose files are no base64: JSON carries any character."""

    content = "\u00e9\ud800"

    def handle(self) -> None:
        while line := self.rfile.readline():
            said = json.loads(line)
            answer: object = {"buf-b64": self.content, "eof": True}
            if said["execute"] == "guest-sync":
                answer = said["arguments"]["id"]
            elif said["execute"] == "guest-file-open":
                answer = 1
            self.wfile.write(json.dumps({"return": answer}).encode() + b"\n")


class DeafGuestAgent(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b'{"return": -1}\n' * 300)


@pytest.mark.parametrize(
    ("agent", "words"),
    [(LyingGuestAgent, "is not base64"), (DeafGuestAgent, "no answer to guest-sync")],
)
def test_a_lying_guest_agent_is_a_problem_of_its_vm(
    tmp_path: Path, agent: type[socketserver.BaseRequestHandler], words: str
) -> None:
    path = tmp_path / "qga"
    with listening(path, agent):
        guest = told(Channel(ChannelKind.QEMU_GUEST_AGENT, path=str(path), pid=os.getpid()))
    assert guest.source is GuestSource.NONE
    assert words in guest.problems[0]


@pytest.mark.parametrize("path", ["/no\0such", "/" + "d" * 200 + "/no\0such", "/s\ud800"])
def test_an_invalid_socket_name_is_a_problem_of_its_vm(path: str) -> None:
    guest = told(Channel(ChannelKind.HYBRID_VSOCK, path=path, pid=os.getpid()))
    assert guest.source is GuestSource.NONE
    assert guest.problems


@pytest.fixture
def guest_agent(tmp_path: Path) -> Iterator[Channel]:
    """The real qemu-ga, which runs on this machine instead of in a guest."""
    program = peer("qemu-guest-agent", "qemu-ga")
    path = tmp_path / "qga"
    child = subprocess.Popen(
        [program.path, "-m", "unix-listen", "-p", str(path), "-t", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment_of(program),
    )
    try:
        deadline = time.monotonic() + 20
        while not is_listening(path):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Channel(ChannelKind.QEMU_GUEST_AGENT, path=str(path), pid=child.pid)
    finally:
        child.kill()
        child.wait()


def test_the_real_qemu_guest_agent(guest_agent: Channel) -> None:
    guest = told(guest_agent)
    assert guest.problems == ()
    assert guest.source is GuestSource.GUEST_AGENT
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert guest.total_bytes is not None
    assert abs(guest.total_bytes - total) < 64 * MIB
    assert guest.free_by_order
    # Read twice: the first session left no unread bytes behind.
    assert told(guest_agent).problems == ()
