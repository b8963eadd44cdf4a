"""A connection to a VM that is cancelled, at whatever step, is closed then: not by the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from giveback.errors import VmError
from giveback.guest import channel
from giveback.vmm.base import Channel, ChannelKind
from giveback.vmm.clients import http, qmp
from giveback.vmm.clients.sockets import each_closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ME = os.getpid()
ADDRESS = f"@giveback-cancelled-{ME}"
STEPS = 40
"""Turns of the loop; what is asked needs fewer until it waits for the other end."""
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket of this process: an abstract name needs no reader process, so every turn is the same."""
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(f"\0{ADDRESS[1:]}")
        found.listen(STEPS * 4)
        found.setblocking(False)
        yield found


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def ask_qmp() -> None:
    async with qmp.monitor(ADDRESS, ME, 60) as monitor:
        await monitor.ask("query-status")


async def ask_guest() -> None:
    place = Channel(ChannelKind.VIRTIO_SERIAL, ADDRESS, pid=ME)
    async with channel.lines(place, 60) as lines:
        await lines.receive()


async def ask_api() -> None:
    async with http.api(ADDRESS, ME, 60) as api:
        await api.get("/")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def serve(listener: socket.socket, greeting: bytes) -> None:
    """Accept, greet, and say nothing more; close what the other end has closed."""
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(listener)
        client.setblocking(False)
        with client, contextlib.suppress(OSError):
            await loop.sock_sendall(client, greeting)
            while await loop.sock_recv(client, 65536):
                pass


@pytest.mark.parametrize("is_served", [False, True])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("ask", [ask_qmp, ask_guest, ask_api])
def test_it_is_closed_at_once(
    listener: socket.socket, ask: Callable[[], Awaitable[None]], times: int, is_served: bool
) -> None:
    async def cancelled_at(step: int) -> None:
        task = asyncio.ensure_future(ask())
        for _ in range(step):
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError, VmError):
            await task

    async def all_steps() -> list[int]:
        greeting = GREETING if ask is ask_qmp else b""
        server = asyncio.ensure_future(serve(listener, greeting)) if is_served else None
        open_now = descriptors()
        left = []
        for step in range(STEPS):
            await cancelled_at(step)
            # The loop closes a transport in its next turns, and the other end then closes its own.
            for _ in range(50):
                await asyncio.sleep(0)
            if descriptors() > open_now:
                left.append(step)
                open_now = descriptors()
        if server is not None:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)
        return left

    assert asyncio.run(all_steps()) == []


def test_a_client_is_closed_whose_task_never_began(listener: socket.socket) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was to be cancelled before")

    async def cancelled() -> None:
        open_before = descriptors()
        before = asyncio.all_tasks()
        async with await asyncio.start_unix_server(each_closed(serve), sock=listener.dup()):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(f"\0{ADDRESS[1:]}")
                begun: list[asyncio.Task[object]] = []
                while not begun:
                    await asyncio.sleep(0)
                    begun = [one for one in asyncio.all_tasks() - before if "serve" in repr(one)]
                begun[0].cancel()
                async with asyncio.timeout(60):
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        await asyncio.sleep(0)
        assert descriptors() == open_before

    asyncio.run(cancelled())
