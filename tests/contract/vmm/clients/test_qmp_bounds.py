"""A server that abuses QMP: the session ends soon with a reason, and nothing received is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socketserver
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_vmm import listening

from giveback.errors import VmError
from giveback.vmm.clients import qmp
from giveback.vmm.clients.qmp import LINE_LIMIT_BYTES, monitor

GREETING = b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}\r\n'
EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}\r\n'

Answer = Callable[[str, "Peer"], None]


class Peer(socketserver.StreamRequestHandler):
    """A monitor whose answer to the first request is given by the test."""

    answer: Answer

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(GREETING)
            # Requests have no end of line; each comes after the last one was answered.
            self.request.recv(1 << 16)
            self.wfile.write(EVENT + b'{"return": {}}\r\n')
            while asked := self.request.recv(1 << 16):
                type(self).answer(json.loads(asked)["id"], self)

    def forever(self, piece: bytes) -> None:
        while True:
            self.wfile.write(piece)


def long(number: str, peer: Peer) -> None:
    answer = '{"return": [' + "[]," * (LINE_LIMIT_BYTES * 4 // 3) + f'[]], "id": "{number}"}}\n'
    peer.wfile.write(answer.encode())


def rich(number: str, peer: Peer) -> None:
    peer.wfile.write(f'{{"return": [{"1," * 70_000} 1], "id": "{number}"}}\n'.encode())


def others(number: str, peer: Peer) -> None:
    del number
    peer.forever(b'{"error": {}, "id": "__qmp#none"}\n' * 1000)


def deep(number: str, peer: Peer) -> None:
    peer.wfile.write(f'{{"return": {"[" * 5000}{"]" * 5000}, "id": "{number}"}}\n'.encode())


def many_events(number: str, peer: Peer) -> None:
    del number
    peer.forever(EVENT * 1000)


def our_events(number: str, peer: Peer) -> None:
    peer.forever(f'{{"event": "X", "id": "{number}", "data": "{"x" * 100_000}"}}\n'.encode())


def blank(number: str, peer: Peer) -> None:
    del number
    peer.forever(b"\n" * 65536)


def pretty(number: str, peer: Peer) -> None:
    del number
    peer.wfile.write(b"{\n")
    peer.forever(b"        \n" * 1000 + b" " * 65536 + b"\n")


@contextlib.contextmanager
def peer(folder: Path, answer: Answer) -> Iterator[str]:
    path = folder / "monitor.sock"
    with listening(path, type("Scripted", (Peer,), {"answer": staticmethod(answer)})):
        yield str(path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (long, "a message is longer than 1024 KiB"),
        (rich, "an answer is more than 65536 elements"),
        (deep, "an answer is nested more than 64 deep"),
        (many_events, "more than 16 MiB in one session|more than 65536 lines"),
        (our_events, "its answers need too much memory"),
        (others, "its answers need too much memory"),
        (blank, "more than 65536 lines"),
        (pretty, "a message is longer than 1024 KiB"),
    ],
)
def test_an_exceeded_limit_ends_the_session_with_a_reason_while_other_tasks_run(
    tmp_path: Path, answer: Answer, words: str
) -> None:
    longest_s = 0.0

    async def ticks() -> None:
        nonlocal longest_s
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.monotonic() - began_s)

    async def scene(path: str) -> None:
        other = asyncio.ensure_future(ticks())
        try:
            with pytest.raises(VmError, match=words):
                async with monitor(path, os.getpid(), 20.0) as session:
                    await session.ask("query-status")
        finally:
            other.cancel()

    with peer(tmp_path, answer) as path:
        asyncio.run(scene(path))
    # A busy machine delays tasks, too: this limit is far above that, and far below a hang.
    assert longest_s < 5
    assert qmp._MEMORY.taken_in_all == 0


def test_events_are_dropped_and_answers_are_read(tmp_path: Path) -> None:
    def answer(number: str, peer: Peer) -> None:
        said = {"return": {"running": True, "event": "no event"}, "id": number}
        peer.wfile.write(EVENT * 3000 + b"\r\n" + json.dumps(said).encode() + b"\r\n" + EVENT)

    async def scene(path: str) -> None:
        async with monitor(path, os.getpid(), 20.0) as session:
            for _ in range(3):
                found = await session.ask("query-status")
                assert found == {"running": True, "event": "no event"}

    with peer(tmp_path, answer) as path:
        asyncio.run(scene(path))


def test_all_monitors_of_one_user_together_have_a_limit(tmp_path: Path) -> None:
    def waits(number: str, peer: Peer) -> None:
        del number
        peer.rfile.read()

    async def scene(path: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(qmp._MEMORY_OF_A_USER_BYTES // (qmp._BUFFER_BYTES + 4096)):
                await stack.enter_async_context(monitor(path, os.getpid(), 30.0))
            with pytest.raises(VmError, match="too many monitors of this user"):
                await stack.enter_async_context(monitor(path, os.getpid(), 30.0))

    with peer(tmp_path, waits) as path:
        asyncio.run(scene(path))
    assert qmp._MEMORY.taken_in_all == 0
