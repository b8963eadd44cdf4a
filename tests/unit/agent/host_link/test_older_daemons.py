"""Daemons of older commits ask today's agent: their recorded bytes."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import GUEST, plant
from older_versions import PEERS, said_by_daemon

from giveback_agent.host_link.link import Link, UrgencyMessage
from giveback_agent.host_link.peer import HostPeer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 60.0
HEARD = {
    "7f2b175": [UrgencyMessage(2, 60.0), UrgencyMessage(0, 30.0)],
    "ce7cdbc": [UrgencyMessage(2, 60.0), UrgencyMessage(1, 30.0, 64 << 20)],
}

ASKED = {"7f2b175": {21, 22, 23}, "ce7cdbc": {21, 22, 23, 24}}
"""The numbers that each daemon wants an answer to."""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[tuple[Link, socket.socket]]:
    """A link on a fake guest, and the host's end of its only peer."""
    plant(tmp_path, GUEST)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    link = Link(str(tmp_path))
    link._add(HostPeer(theirs.detach(), lasting=False))
    yield link, ours
    link.close()
    ours.close()


@pytest.mark.parametrize("commit", PEERS)
def test_an_older_daemon_is_heard_and_answered(
    commit: str, guest: tuple[Link, socket.socket]
) -> None:
    link, host = guest
    host.sendall(said_by_daemon(commit))
    heard: list[object] = []
    received = b""
    deadline_s = time.monotonic() + DEADLINE_S
    while events_by_id(received).keys() < ASKED[commit]:
        assert time.monotonic() < deadline_s, received
        select.select([host.fileno(), link.fileno()], [], [], 0.02)
        heard += link.receive(1000.0)
        with contextlib.suppress(BlockingIOError):
            received += host.recv(1 << 20)
    events = events_by_id(received)
    assert heard == HEARD[commit]
    assert (events[21], events[22], events[23]) == ("memory", "urgency", "urgency")
    # Asked again at once: refused with the time to wait, or answered where the first answer was quick.
    assert events.get(24, "memory") in ("memory", "error")


def events_by_id(received: bytes) -> dict[int, str]:
    """Return the event that answers each number, from the lines that are whole."""
    lines = [json.loads(line) for line in received.split(b"\n")[:-1] if line]
    return {line["id"]: line["event"] for line in lines if "id" in line}
