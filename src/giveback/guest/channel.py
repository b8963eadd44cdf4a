"""Channels into a guest: three kinds of connection, one stream of lines.

QEMU's virtio-serial port is a unix socket that serves one client. QEMU's vsock is an address family. The
vsock of Cloud Hypervisor and Firecracker is a unix socket on which the client first sends `CONNECT port`.
Source: docs/vsock.md of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest import protocol
from giveback.vmm.base import Channel, ChannelKind
from giveback.vmm.clients import owned
from giveback.vmm.clients.sockets import reason
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_TIMEOUT_S = 5.0
_GUEST_AGENT_LINE_LIMIT_BYTES = 256 << 10
"""qemu-guest-agent sends each piece of a file in one line, as base64."""


class LineStream:
    """A stream of lines to and from a guest; a received line has at most `limit_bytes`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit_bytes: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._limit_bytes = limit_bytes

    async def send(self, line: bytes) -> None:
        """Send a line, which must end in a newline; wait until the socket has taken most of it."""
        self._writer.write(line)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Return the next line. Raises VmError if the guest closed its end, or the line is too long."""
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            raise VmError("the guest closed its end of the channel") from error
        except asyncio.LimitOverrunError as error:
            raise VmError(
                f"the guest sent a line of more than {self._limit_bytes} bytes"
            ) from error
        return line


@contextlib.asynccontextmanager
async def lines(channel: Channel, timeout_s: float) -> AsyncIterator[LineStream]:
    """Open the channel for the context, which may take at most `timeout_s` in all.

    Raises VmError if it cannot be opened, or the time is over.
    """
    of_qemu = channel.kind is ChannelKind.QEMU_GUEST_AGENT
    limit_bytes = _GUEST_AGENT_LINE_LIMIT_BYTES if of_qemu else protocol.LINE_LIMIT_BYTES
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            opened = await open_socket(channel)
            reader, writer = await asyncio.open_connection(sock=opened, limit=limit_bytes)
            if channel.kind is ChannelKind.HYBRID_VSOCK:
                await _greet(reader, writer)
            yield LineStream(reader, writer, limit_bytes)
    except TimeoutError as error:
        why = await _silence(channel) if writer is not None else ""
        raise VmError(
            f"{where(channel)}: no answer from the guest in {timeout_s:g} s{why}"
        ) from error
    except OSError as error:
        raise VmError(f"{where(channel)}: {reason(error)}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


def where(channel: Channel) -> str:
    """Return the name of the channel for error messages, safe to print."""
    return escape_for_terminal(channel.path or f"vsock {channel.cid}", 400)


async def _silence(channel: Channel) -> str:
    """Return the likely reason why no answer came.

    QEMU serves one client of a port; a second connection is queued, and receives nothing.
    """
    if channel.kind is ChannelKind.VIRTIO_SERIAL and await owned.is_queued(
        channel.path, channel.pid
    ):
        return "; another program is connected to this port, and QEMU serves one at a time"
    return "; no giveback-agent runs there, or the guest is too busy to answer"


async def open_socket(channel: Channel) -> socket.socket:
    """Return a connected, non-blocking socket. Raises VmError with the reason if it cannot connect."""
    if channel.kind is not ChannelKind.VSOCK:
        return await owned.connect(channel.path, channel.pid)
    name = where(channel)
    owned.check_vsock(channel.cid, channel.pid)
    try:
        opened = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise VmError(f"{name}: {reason(error)}; is vhost_vsock loaded?") from error
    opened.setblocking(False)
    address = (channel.cid, protocol.AGENT_VSOCK_PORT)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException as error:
        opened.close()
        if isinstance(error, TimeoutError):
            raise VmError(f"{name}: no answer from the guest in {CONNECT_TIMEOUT_S:g} s") from error
        if isinstance(error, OSError):
            raise VmError(f"{name}: {reason(error)}") from error
        raise
    return opened


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(protocol.GREETING)
    try:
        answer = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
        raise VmError(
            f"no program in the guest listens on vsock port {protocol.AGENT_VSOCK_PORT}"
        ) from error
    if not protocol.is_greeted(answer):
        raise VmError(f"the vsock socket answered {escape_for_terminal(repr(answer[:64]))}, not OK")
