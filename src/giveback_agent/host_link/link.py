"""The agent's link to the host: it sends events and answers requests.

It uses the virtio-serial port `org.giveback.agent.0`, else vsock port 26466. A host that does not listen,
or no channel at all, is normal: events are then dropped, and the agent never waits. docs/protocol.md has
the messages.
"""

from __future__ import annotations

import os
import select
import time

from giveback_agent.host_link import json_lines
from giveback_agent.host_link.json_lines import encode, quote
from giveback_agent.host_link.peer import HostPeer
from giveback_agent.runtime.worker import DONE, Worker
from giveback_kernel import __version__, files
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.host_link.json_lines import Scalar

__all__ = ["Link", "UrgencyMessage", "encode", "find_port", "quote"]

PORT_NAME = "org.giveback.agent.0"
PORTS = "/sys/class/virtio-ports"
VSOCK_PATH = "/dev/vsock"
VSOCK_PORT = 26466
DEADLINES_S = {"memory": 15.0, "pages": 120.0}
"""The requests that are answered, and how long an answer may take before its process is killed."""
ANSWER_CPU_DIVISOR = 10
"""Answers use at most 1/10 of a CPU: after one, the next of its kind waits nine times its CPU time."""
DELAYS = {"memory": ("memory", "pages"), "pages": ("pages",)}
"""The kinds of requests that wait after an answer. `pages` costs as much as hundreds of `memory`. The host
needs `memory` for its decisions, so that does not wait for `pages`. `pages` waits for both: together they
use 1/10 of a CPU, plus at most one answer to `pages`."""
REOPEN_S = 10.0
FLOOD_PAUSE_S = 1.0
LEASE_MOST_S = 86_400.0
BY_LIMIT = 16
_PEERS_LIMIT = 4


class UrgencyMessage(Record):
    """The host's urgency (0 to 3), which holds for `lease_s` seconds from now.

    `goal_bytes` is the amount that it wants; None: no limit. `by` names who set it on the host. A goal that
    is sent again, as far as it is not reached, has the `goal_number` of before; None: it is a new one.
    """

    urgency: int
    lease_s: float
    goal_bytes: int | None = None
    by: str = "host"
    goal_number: int | None = None


class Link:
    """All channels to the host. No method raises or waits.

    `answer_cpu_s` is the total CPU time of answers in seconds and `answer_user_s` their user time; both
    count as the agent's own. The service sets `promise`: it is called in the process of an answer, and
    its fields are added to the answer.
    """

    def __init__(self, root: str) -> None:
        self.answer_cpu_s = self.answer_user_s = 0.0
        self.promise: Callable[[], dict[str, object]] = dict
        self._root = root
        self._peers: list[HostPeer] = []
        self._epoll: select.epoll | None = None
        self._listener: object = None
        self._accept: Callable[[], tuple[int, object]] | None = None
        self._worker: Worker | None = None
        self._asked: tuple[HostPeer, str, Scalar] | None = None
        self._next_answer_s = dict.fromkeys(DEADLINES_S, 0.0)
        self._reopen_s = time.monotonic() + REOPEN_S
        self._open()

    def fileno(self) -> int:
        """Return the descriptor to wait on for messages from the host; -1 if there is no channel yet."""
        return -1 if self._epoll is None else self._epoll.fileno()

    @property
    def answering_pid(self) -> int | None:
        """The id of the process that makes an answer now, or None."""
        return None if self._worker is None else self._worker.pid

    def send(self, **message: object) -> bool:
        """Send one event; return whether a host took it."""
        line = json_lines.line_of(message)
        taken = [peer.send(line) for peer in self._peers]
        return True in taken

    def receive(self, now_s: float) -> list[Record]:
        """Handle messages from the host: answer its requests, and return the other messages.

        Call it when `fileno` is readable, and at every tick: it also notices the end of an answer's
        process, and opens a port that appeared late.
        """
        if self._epoll is not None:
            self._epoll.poll(0)
        self._reap(now_s)
        if not self._peers and self._listener is None and now_s >= self._reopen_s:
            self._reopen_s = now_s + REOPEN_S
            self._open()
        self._take_callers()
        found: list[Record] = []
        for peer in list(self._peers):
            if now_s < peer.quiet_until_s:
                continue
            for line in peer.receive():
                message = self._hear(peer, line, now_s)
                if message is not None:
                    found.append(message)
            peer.flush()
            self._watch(peer, now_s)
        return found

    def close(self) -> None:
        """Close every channel."""
        if self._worker is not None:
            self._worker.abandon()
        for peer in list(self._peers):
            self._drop(peer)
        if self._listener is not None:
            self._listener.close()  # type: ignore[attr-defined]
            self._listener = self._accept = None
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def _open(self) -> None:
        device = find_port(self._root)
        if device is not None:
            try:
                flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
                self._add(HostPeer(os.open(device, flags), lasting=True))
            except OSError:
                # Another agent may be about to close it: tried again later.
                return
        elif files.exists(self._root, VSOCK_PATH):
            self._listen()

    def _listen(self) -> None:
        """Listen on vsock. `_socket` is used because `socket` imports enums that take 1 MB."""
        try:
            import _socket

            listener = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
            listener.setblocking(False)
            listener.bind((_socket.VMADDR_CID_ANY, VSOCK_PORT))
            listener.listen(_PEERS_LIMIT)
        except (ImportError, AttributeError, OSError):
            return
        self._listener = listener
        self._accept = listener._accept  # type: ignore[attr-defined]  # noqa: SLF001
        self._register(listener.fileno())

    def _take_callers(self) -> None:
        """Accept vsock connections from the host only; any guest process can connect as well."""
        while self._accept is not None:
            try:
                fd, address = self._accept()
            except OSError:
                return
            if address[0] != 2:  # type: ignore[index]  # VMADDR_CID_HOST
                os.close(fd)
                continue
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
            if len(self._peers) >= _PEERS_LIMIT:
                self._drop(self._peers[0])
            self._add(HostPeer(fd, lasting=False))

    def _add(self, peer: HostPeer) -> None:
        self._peers.append(peer)
        self._register(peer.fd)
        peer.send(
            json_lines.line_of({"event": "hello", "agent": __version__, "asks": list(DEADLINES_S)})
        )

    def _register(self, fd: int) -> None:
        # Edge-triggered: a virtio-serial port without a host is at end of file, hence always readable. An
        # edge comes only when a host connects or writes.
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        except OSError:
            # A regular file, in tests, or no descriptor is left: it is read at every tick instead.
            return

    def _watch(self, peer: HostPeer, now_s: float) -> None:
        """Drop a closed peer; ignore a flooding one for FLOOD_PAUSE_S."""
        if peer.gone:
            self._drop(peer)
        elif peer.is_flooding:
            peer.quiet_until_s = now_s + FLOOD_PAUSE_S
            self._forget(peer)
        elif peer.quiet_until_s:
            peer.quiet_until_s = 0.0
            self._register(peer.fd)

    def _forget(self, peer: HostPeer) -> None:
        if self._epoll is not None:
            try:
                self._epoll.unregister(peer.fd)
            except (OSError, ValueError):
                return

    def _drop(self, peer: HostPeer) -> None:
        self._forget(peer)
        self._peers.remove(peer)
        if self._worker is not None and self._asked is not None and self._asked[0] is peer:
            self._worker.abandon()
        peer.close()

    def _hear(self, peer: HostPeer, line: bytes, now_s: float) -> Record | None:
        """Handle one line: begin the answer of a request, or return another message."""
        fields = json_lines.parse(line)
        if fields is None:
            return None
        ask, number = fields.get("ask"), fields.get("id")
        if fields.get("v", json_lines.VERSION) != json_lines.VERSION:
            text = f"this agent speaks version {json_lines.VERSION} only"
            peer.send(
                json_lines.line_of({"event": "error", "ask": ask, "id": number, "text": text})
            )
        elif isinstance(ask, str):
            self._answer(peer, ask, number, now_s, fields.get("cgroups") is True)
        elif "urgency" in fields:
            urgency = _urgency(fields)
            if urgency is not None and number is not None:
                taken = {"urgency": urgency.urgency, "lease_s": urgency.lease_s}
                peer.send(json_lines.line_of({"event": "urgency", "id": number, **taken}))
            return urgency
        return None

    def _answer(
        self, peer: HostPeer, ask: str, number: Scalar, now_s: float, cgroups: bool
    ) -> None:
        """Start the answer in a process of its own, or send the reason why not."""
        if ask not in DEADLINES_S:
            _refuse(peer, ask, number, "unknown request; known: " + ", ".join(DEADLINES_S))
        elif self._worker is not None:
            _refuse(peer, ask, number, "another answer is being made", 0.2)
        elif now_s < self._next_answer_s[ask]:
            _refuse(peer, ask, number, "asked too often", self._next_answer_s[ask] - now_s)
        else:
            self._fork(peer, ask, number, now_s, cgroups)

    def _fork(self, peer: HostPeer, ask: str, number: Scalar, now_s: float, cgroups: bool) -> None:
        root, fd, until_s = self._root, peer.fd, time.monotonic() + DEADLINES_S[ask]
        promise = self.promise

        def make() -> None:
            from giveback_agent.host_link import answers

            answers.answer(root, ask, number, fd, until_s, cgroups, promise)

        if not peer.has_room():
            _refuse(peer, ask, number, "the host does not read", 1.0)
            return
        try:
            self._worker = Worker(ask, make, now_s, DEADLINES_S[ask], kept_fd=fd)
        except OSError as error:
            _refuse(peer, ask, number, f"no process: {os.strerror(error.errno or 0)}", 1.0)
            return
        peer.held = True
        self._asked = (peer, ask, number)

    def _reap(self, now_s: float) -> None:
        """Account an answer that has ended; kill one that takes too long."""
        worker = self._worker
        if worker is None or self._asked is None:
            return
        code = worker.poll()
        if code is None:
            if worker.overdue(now_s) and not worker.abandoned:
                worker.abandon()
            return
        peer, ask, number = self._asked
        self._worker = self._asked = None
        self.answer_cpu_s += worker.cpu_s
        self.answer_user_s += worker.user_s
        for kind in DELAYS[ask]:
            from_s = max(now_s, self._next_answer_s[kind])
            self._next_answer_s[kind] = from_s + worker.cpu_s * (ANSWER_CPU_DIVISOR - 1)
        peer.held = False
        if code != DONE:
            peer.end_line()
            _refuse(peer, ask, number, "took too long" if worker.abandoned else "failed")
        peer.flush()


def _refuse(
    peer: HostPeer, ask: str, number: Scalar, text: str, retry_s: float | None = None
) -> None:
    message: dict[str, object] = {"event": "error", "ask": ask[:40], "id": number, "text": text}
    if retry_s is not None:
        message["retry_s"] = round(retry_s, 3)
    peer.send(json_lines.line_of(message))


def _urgency(fields: dict[str, Scalar]) -> UrgencyMessage | None:
    """Return the urgency message, or None if a field is invalid: it then changes nothing."""
    urgency, lease_s = fields.get("urgency"), fields.get("lease_s")
    if isinstance(urgency, bool) or not isinstance(urgency, int) or not 0 <= urgency <= 3:
        return None
    if isinstance(lease_s, bool) or not isinstance(lease_s, (int, float)):
        return None
    goal, number = _amount(fields.get("goal_bytes")), _amount(fields.get("goal_number"))
    if not 0 < lease_s <= LEASE_MOST_S:
        return None
    by = fields.get("by")
    is_word = isinstance(by, str) and by.isascii() and by.isalpha() and len(by) <= BY_LIMIT
    return UrgencyMessage(urgency, float(lease_s), goal, str(by) if is_word else "host", number)


def _amount(value: Scalar) -> int | None:
    """Return a number that may be an amount; None for any other value."""
    is_one = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_one else None  # type: ignore[return-value]


def find_port(root: str) -> str | None:
    """Return the device of the agent's virtio-serial port; None if the VM has none."""
    try:
        names = os.listdir(files.under(root, PORTS))
    except OSError:
        return None
    for name in sorted(names):
        try:
            with open(files.under(root, f"{PORTS}/{name}/name")) as file:
                if file.read(256).strip() == PORT_NAME:
                    return files.under(root, f"/dev/{name}")
        except (OSError, UnicodeDecodeError):
            continue
    return None
