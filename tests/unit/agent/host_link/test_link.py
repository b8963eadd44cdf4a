"""The agent's link to the host: messages in any pieces, answers by another process, and no blocking."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.host_link import answers, json_lines, link
from giveback_agent.host_link.link import Link, UrgencyMessage
from giveback_agent.host_link.peer import HELD_LIMIT, LINES_LIMIT, READ_LIMIT_BYTES, HostPeer
from giveback_agent.runtime.worker import Worker

KPAGEFLAGS = b"".join((1 << 10).to_bytes(8, "little") for _ in range(512))


class Host:
    """The other end of a link's only peer."""

    def __init__(self, guest: Link, end: socket.socket) -> None:
        self.link = guest
        self.end = end
        self.now_s = 1000.0
        self.heard: list[object] = []
        self._partial = b""

    def say(self, text: bytes) -> None:
        self.end.sendall(text)

    def lines(self) -> list[dict[str, object]]:
        with contextlib.suppress(BlockingIOError):
            self._partial += self.end.recv(1 << 20)
        *whole, self._partial = self._partial.split(b"\n")
        return [json.loads(line) for line in whole if line]

    def look(self) -> None:
        self.heard += self.link.receive(self.now_s)

    def wait(self, wanted: Callable[[dict[str, object]], bool]) -> list[dict[str, object]]:
        """Return all lines up to the wanted one."""
        found: list[dict[str, object]] = []
        deadline = time.monotonic() + 30
        while not any(wanted(line) for line in found):
            assert time.monotonic() < deadline, found
            select.select([self.end.fileno(), self.link.fileno()], [], [], 0.02)
            self.look()
            found += self.lines()
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A link on a fake guest, its host a socket."""
    plant(tmp_path, {**GUEST, "/proc/kpageflags": KPAGEFLAGS})
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    guest = Link(str(tmp_path))
    guest._add(HostPeer(theirs.detach(), lasting=False))
    yield Host(guest, ours)
    guest.close()
    ours.close()


def event(name: str) -> Callable[[dict[str, object]], bool]:
    return lambda line: line.get("event") == name


def test_a_vm_without_a_port_loses_words_and_nothing_else(tmp_path: Path) -> None:
    channel = Link(str(tmp_path))
    assert channel.send(event="step", step="compact") is False
    assert channel.fileno() == -1
    assert channel.receive(1.0) == []
    channel.close()


def test_the_port_is_found_by_its_name_and_opened_when_it_comes(tmp_path: Path) -> None:
    channel = Link(str(tmp_path))
    port = tmp_path / "sys/class/virtio-ports/vport1p2"
    port.mkdir(parents=True)
    (port / "name").write_text("org.giveback.agent.0\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vport1p2").touch()
    now_s = time.monotonic()
    channel.receive(now_s)
    assert channel.send(event="step") is False
    channel.receive(now_s + link.REOPEN_S + 1)
    assert channel.send(event="step", step="compact", text='a "b"\n') is True
    channel.close()
    lines = [json.loads(line) for line in (tmp_path / "dev/vport1p2").read_text().splitlines()]
    assert lines[0] == {
        "v": 1, "event": "hello", "agent": lines[0]["agent"], "asks": ["memory", "pages"],
    }  # fmt: skip
    assert lines[1] == {"v": 1, "event": "step", "step": "compact", "text": 'a "b"\n'}


@given(st.lists(st.sampled_from([b'{"urgency":2,"lease_s":60}', b"x", b""]), max_size=8), st.data())
def test_lines_come_whole_however_they_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    peer = HostPeer(reading, lasting=False)
    stream = b"".join(line + b"\n" for line in sent)
    found: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        os.write(writing, stream[:cut])
        stream = stream[cut:]
        found += peer.receive()
    assert found == [line for line in sent if line]
    os.close(writing)
    peer.close()


def test_a_line_that_is_too_long_is_passed_over(host: Host) -> None:
    host.say(b"x" * (2 * json_lines.REQUEST_LIMIT_BYTES))
    host.look()
    host.say(b'{"urgency":3,"lease_s":1}\n{"urgency":1,"lease_s":2.5}\n')
    host.look()
    assert host.heard == [UrgencyMessage(1, 2.5)]


@pytest.mark.parametrize(
    "said",
    [
        b'{"urgency":4,"lease_s":1}', b'{"urgency":-1,"lease_s":1}', b'{"urgency":true,"lease_s":1}',
        b'{"urgency":1}', b'{"urgency":1,"lease_s":0}', b'{"urgency":1,"lease_s":1e9}',
        b'{"urgency":1.0,"lease_s":1}', b'{"urgency":1,"lease_s":true}', b'{"urgency":"1"}',
        b'{"v":2,"urgency":1,"lease_s":1}',
    ],
)  # fmt: skip
def test_an_invalid_urgency_changes_nothing(host: Host, said: bytes) -> None:
    host.say(said + b"\n")
    host.look()
    assert host.heard == []


@pytest.mark.parametrize(
    ("said", "goal_bytes"),
    [(b"60", 60), (b"0", 0), (b"-1", None), (b"true", None), (b'"9"', None), (b"1.5", None)],
)
def test_a_goal_comes_with_an_urgency_or_is_ignored(
    host: Host, said: bytes, goal_bytes: int | None
) -> None:
    host.say(b'{"urgency":2,"lease_s":60,"goal_bytes":%s}\n' % said)
    host.look()
    assert host.heard == [UrgencyMessage(2, 60.0, goal_bytes)]


@pytest.mark.parametrize(
    ("said", "by"),
    [
        (b'"reclaim"', "reclaim"),
        (b'"manual"', "manual"),
        (b'"\\u001b[2J"', "host"),
        (b'"averyveryverylongword"', "host"),
        (b"7", "host"),
        (b"null", "host"),
    ],
)
def test_who_set_an_urgency_is_a_short_word_or_the_host(host: Host, said: bytes, by: str) -> None:
    host.say(b'{"urgency":2,"lease_s":60,"by":%s}\n' % said)
    host.look()
    assert host.heard == [UrgencyMessage(2, 60.0, None, by)]


def test_an_urgency_with_a_number_is_confirmed(host: Host) -> None:
    host.say(b'{"urgency":2,"lease_s":60,"id":4}\n{"urgency":1,"lease_s":60}\n')
    host.look()
    assert host.heard == [UrgencyMessage(2, 60.0), UrgencyMessage(1, 60.0)]
    confirmed = [line for line in host.lines() if line["event"] == "urgency"]
    assert confirmed == [{"v": 1, "event": "urgency", "id": 4, "urgency": 2, "lease_s": 60.0}]


def test_memory_is_asked_and_told(host: Host) -> None:
    host.link.promise = lambda: {"learned_floor_bytes": 40 << 20, "would_take_bytes": 8 << 20}
    host.say(b'{"v":1,"ask":"memory","id":7}\n')
    (said,) = [line for line in host.wait(event("memory")) if line["event"] == "memory"]
    assert said["id"] == 7
    assert said["meminfo"] == GUEST["/proc/meminfo"].decode()
    assert said["report_order"] == 9
    assert (said["learned_floor_bytes"], said["would_take_bytes"]) == (40 << 20, 8 << 20)


def test_pages_come_in_parts_after_the_memory(host: Host) -> None:
    host.say(b'{"ask":"pages","id":"x"}\n')
    lines = host.wait(lambda line: line.get("part") == 0)
    kinds = [line["event"] for line in lines]
    assert kinds == ["hello", "memory", "pages"]
    assert lines[-1]["of"] == 1


def test_what_cannot_be_read_is_said(host: Host, tmp_path: Path) -> None:
    (tmp_path / "proc/kpageflags").unlink()
    host.say(b'{"ask":"pages","id":1}\n')
    (said,) = [line for line in host.wait(event("error")) if line["event"] == "error"]
    assert "kpageflags" in str(said["text"])
    assert said["id"] == 1


def test_unknown_questions_and_versions_are_refused(host: Host) -> None:
    host.say(b'{"ask":"secrets","id":1}\n{"v":9,"ask":"memory","id":2}\n')
    host.look()
    refused = [line for line in host.lines() if line["event"] == "error"]
    assert [line["id"] for line in refused] == [1, 2]
    assert "memory, pages" in str(refused[0]["text"])
    assert "version 1" in str(refused[1]["text"])


def test_one_answer_at_a_time_and_not_too_often(host: Host) -> None:
    host.say(b'{"ask":"pages","id":1}\n{"ask":"pages","id":2}\n')
    host.look()
    lines = host.wait(lambda line: line.get("part") == 0)
    deadline = time.monotonic() + 30
    while host.link.answering_pid is not None:
        assert time.monotonic() < deadline
        host.look()
    # Sent after the answer before it: their lines do not mix.
    (refused,) = host.lines()
    assert [line["event"] for line in lines] == ["hello", "memory", "pages"]
    assert refused["id"] == 2
    assert refused["retry_s"] == 0.2
    assert host.link.answer_cpu_s > 0
    host.say(b'{"ask":"pages","id":3}\n')
    host.look()
    (refused,) = host.lines()
    assert refused["text"] == "asked too often"
    host.now_s += host.link.answer_cpu_s * link.ANSWER_CPU_DIVISOR
    host.say(b'{"ask":"pages","id":4}\n')
    assert host.wait(event("memory"))[-1]["id"] == 4


def answer_within(host: Host, ask: bytes) -> list[object]:
    """Send a request and wait for the end of its answer; return the events received."""
    host.say(b'{"ask":"%s","id":9}\n' % ask)
    host.look()
    deadline = time.monotonic() + 30
    while host.link.answering_pid is not None:
        assert time.monotonic() < deadline
        select.select([host.end.fileno()], [], [], 0.02)
        host.look()
    return [line.get("text") or line["event"] for line in host.lines() if line["event"] != "hello"]


def answers_cost(monkeypatch: pytest.MonkeyPatch, costs_s: dict[str, float]) -> None:
    """Let each kind of answer take this much CPU time."""
    reap = Worker.poll

    def poll(worker: Worker) -> int | None:
        code = reap(worker)
        worker.cpu_s = costs_s[worker.kind]
        return code

    monkeypatch.setattr(Worker, "poll", poll)


def test_an_expensive_answer_leaves_the_cheap_ones_their_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `explain --exact` the host must go on to read the guest that it is to ask for memory."""
    answers_cost(monkeypatch, {"pages": 40.0, "memory": 0.5})
    assert answer_within(host, b"pages")[0] == "memory"
    assert answer_within(host, b"pages") == ["asked too often"]
    host.now_s += 1.0
    assert answer_within(host, b"memory") == ["memory"]
    # A flood of either is bounded: each waits for its own cost, the expensive one for both.
    assert answer_within(host, b"memory") == ["asked too often"]
    host.now_s += 4.5
    assert answer_within(host, b"memory") == ["memory"]
    host.now_s += 40.0 * 9 - 5.5
    assert answer_within(host, b"pages") == ["asked too often"]
    host.now_s += 2 * 4.5
    assert answer_within(host, b"pages")[0] == "memory"


@pytest.mark.parametrize("asks", [(b"memory", b"pages"), (b"pages", b"memory")])
def test_a_flood_of_both_asks_takes_a_tenth_of_a_cpu(
    host: Host, monkeypatch: pytest.MonkeyPatch, asks: tuple[bytes, bytes]
) -> None:
    costs_s = {"pages": 20.0, "memory": 2.0}
    answers_cost(monkeypatch, costs_s)
    started_s = host.now_s
    for _ in range(120):
        for ask in asks:
            answer_within(host, ask)
        host.now_s += 5.0
    most_s = (host.now_s - started_s) / link.ANSWER_CPU_DIVISOR
    assert 0.8 * most_s <= host.link.answer_cpu_s <= most_s + costs_s["pages"] + costs_s["memory"]


def test_events_wait_for_the_end_of_an_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(root: str, ask: str, number: object, fd: int, until_s: float, *_: int) -> None:
        answers.write(fd, b'{"event":"memory","half":', until_s)
        signal.sigtimedwait([signal.SIGUSR2], 0.2)
        answers.write(fd, b"1}\n", until_s)

    monkeypatch.setattr(answers, "answer", slow)
    host.say(b'{"ask":"memory"}\n')
    host.look()
    for number in range(HELD_LIMIT + 5):
        assert host.link.send(event="step", number=number)
    lines = host.wait(lambda line: line.get("number") == HELD_LIMIT + 4)
    steps = [line["number"] for line in lines if line["event"] == "step"]
    assert steps == list(range(5, HELD_LIMIT + 5))


def test_an_answer_that_takes_too_long_is_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(root: str, ask: str, number: object, fd: int, until_s: float, *_: int) -> None:
        answers.write(fd, b'{"half":', until_s)
        signal.pause()

    monkeypatch.setattr(answers, "answer", endless)
    host.say(b'{"ask":"memory","id":5}\n')
    host.look()
    deadline = time.monotonic() + 30
    while not (raw := _peek(host.end)).endswith(b'{"half":'):
        assert time.monotonic() < deadline, raw
    host.now_s += link.DEADLINES_S["memory"] + 1
    while host.link.answering_pid is not None:
        assert time.monotonic() < deadline
        host.look()
    raw = host.end.recv(1 << 16)
    assert json.loads(raw.splitlines()[-1])["text"] == "took too long"
    assert b'{"half":\n' in raw


def _peek(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def test_a_host_that_does_not_read_loses_words_and_stops_nothing(host: Host) -> None:
    sent = 0
    while host.link.send(event="step", text="x" * 10_000):
        sent += 1
    assert host.link.send(event="step") is False
    host.say(b'{"ask":"memory","id":1}\n')
    host.look()
    assert host.link.answering_pid is None
    lines: list[dict[str, object]] = []
    for _ in range(4):
        lines += host.lines()
        host.look()
    assert len(lines) >= sent
    assert host.link.send(event="step", text="after") is True
    assert host.lines()[-1]["text"] == "after"


def test_a_host_that_floods_is_heard_a_little_a_second(host: Host) -> None:
    for _ in range(8):
        host.say(b'{"urgency":1,"lease_s":1}\n' * 150)
    host.look()
    assert len(host.heard) <= LINES_LIMIT
    assert select.select([host.link.fileno()], [], [], 0)[0] == []
    host.look()
    assert len(host.heard) <= LINES_LIMIT
    host.now_s += link.FLOOD_PAUSE_S
    before = len(_peek_all(host))
    host.look()
    assert before == 0
    assert LINES_LIMIT < len(host.heard) <= 2 * LINES_LIMIT
    while host.link._peers[0].quiet_until_s:
        host.now_s += link.FLOOD_PAUSE_S
        host.look()
    host.say(b'{"urgency":3,"lease_s":1}\n')
    assert select.select([host.link.fileno()], [], [], 5)[0]
    host.look()
    assert host.heard[-1] == UrgencyMessage(3, 1.0)
    assert READ_LIMIT_BYTES < 150 * 8 * 26


def _peek_all(host: Host) -> list[dict[str, object]]:
    return [line for line in host.lines() if line["event"] != "hello"]


def test_a_peer_that_hangs_up_is_closed(host: Host) -> None:
    host.end.close()
    host.look()
    assert host.link.send(event="step") is False
    assert select.select([host.link.fileno()], [], [], 0)[0] == []


def test_a_port_at_its_end_is_not_readable_for_ever(tmp_path: Path) -> None:
    """Like virtio-serial without a host: always readable, and always at end of file."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.close(writing)
    channel = Link(str(tmp_path))
    channel._add(HostPeer(reading, lasting=True))
    assert select.select([channel.fileno()], [], [], 5)[0]
    channel.receive(1.0)
    assert select.select([channel.fileno()], [], [], 0)[0] == []
    assert len(channel._peers) == 1
    channel.close()


def test_over_vsock_only_the_host_is_heard_and_four_clients_at_most(tmp_path: Path) -> None:
    """Any process of the guest may also connect, as CID 1: only the accepted address shows that."""
    plant(tmp_path, GUEST)
    channel = Link(str(tmp_path))
    ends: list[socket.socket] = []
    waiting: list[tuple[int, tuple[int, int]]] = []
    for cid in (1, 2, 2, 3, 2, 2, 2):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ends.append(ours)
        waiting.append((theirs.detach(), (cid, 99)))

    def accept() -> tuple[int, object]:
        if not waiting:
            raise BlockingIOError
        return waiting.pop(0)

    channel._accept = accept
    channel.receive(1.0)
    # Dropped clients see the end; the others were greeted.
    heard = [end.recv(1000) for end in ends]
    greeted = [b"hello" in data for data in heard]
    assert greeted == [False, True, True, False, True, True, True]
    assert [bool(_ended(end)) for end in ends] == [True, True, False, True, False, False, False]
    assert all(not os.get_inheritable(peer.fd) for peer in channel._peers)
    ends[2].sendall(b'{"urgency":3,"lease_s":5}\n')
    assert channel.receive(2.0) == [UrgencyMessage(3, 5.0)]
    channel.close()
    for end in ends:
        end.close()


def _ended(end: socket.socket) -> bool:
    try:
        return end.recv(1000) == b""
    except BlockingIOError:
        return False


def test_without_vsock_in_the_kernel_there_is_no_way_and_no_harm(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vsock").touch()
    channel = Link(str(tmp_path))
    assert channel.receive(1.0) == []
    channel.close()
    channel.close()


def test_the_service_holds_no_json() -> None:
    import subprocess
    import sys

    code = "import sys, giveback_agent.service.loop; print('json' in sys.modules, 'socket' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(Path(link.__file__).parents[2])}, check=True)  # fmt: skip
    assert done.stdout.split() == ["False", "False"]
