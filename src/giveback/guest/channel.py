"""Ways into a guest: three dialects, one stream.

QEMU's virtio-serial is a unix socket that serves one client; its vsock is an address family; Cloud
Hypervisor's and Firecracker's vsock is a unix socket on which one says `CONNECT port` first.
Source: docs/vsock.md of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.text import shown
from giveback.vmm.base import Channel, ChannelKind
from giveback.vmm.clients.sockets import connect_unix, is_queued, reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AGENT_VSOCK_PORT = 26466
LINE_LIMIT_BYTES = 256 << 10
_GREETING_LIMIT_BYTES = 64


class Lines:
    """Lines to and from a guest, each bounded by LINE_LIMIT_BYTES."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, line: bytes) -> None:
        self._writer.write(line + b"\n")
        await self._writer.drain()

    async def receive(self) -> bytes:
        """The next line. Raises VmError where there is none, or it is too long."""
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            raise VmError("the guest's end was closed") from error
        except asyncio.LimitOverrunError as error:
            raise VmError(f"the guest sent a line of more than {LINE_LIMIT_BYTES} bytes") from error
        return line


@contextlib.asynccontextmanager
async def lines(channel: Channel, timeout_s: float) -> AsyncIterator[Lines]:
    """Talk over the channel for at most `timeout_s` in all. Raises VmError."""
    where = channel.path or f"vsock {channel.cid}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            opened = await _open(channel)
            reader, writer = await asyncio.open_connection(sock=opened, limit=LINE_LIMIT_BYTES)
            if channel.kind is ChannelKind.HYBRID_VSOCK:
                await _greet(reader, writer)
            yield Lines(reader, writer)
    except TimeoutError as error:
        why = _silence(channel) if writer is not None else ""
        raise VmError(f"{where}: no answer from the guest in {timeout_s:g} s{why}") from error
    except OSError as error:
        raise VmError(f"{where}: {reason(error)}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


def _silence(channel: Channel) -> str:
    """Why nothing comes: QEMU serves one client of a port, the next ones wait without a word."""
    if channel.kind is ChannelKind.VIRTIO_SERIAL and is_queued(channel.path):
        return "; another program is connected to this port, and QEMU serves one at a time"
    return "; no giveback-agent runs there, or the guest is too busy to answer"


async def _open(channel: Channel) -> socket.socket:
    if channel.kind is not ChannelKind.VSOCK:
        return connect_unix(channel.path)
    connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (channel.cid, AGENT_VSOCK_PORT))
    except BaseException:
        connection.close()
        raise
    return connection


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"CONNECT {AGENT_VSOCK_PORT}\n".encode())
    try:
        answer = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
        raise VmError(f"nothing in the guest listens on vsock port {AGENT_VSOCK_PORT}") from error
    if len(answer) > _GREETING_LIMIT_BYTES or not answer.startswith(b"OK "):
        raise VmError(f"the vsock socket answered {shown(repr(answer[:64]))}, not OK")
