"""A QMP conversation that is bounded in time and bytes, whatever answers at the other end.

QEMU's monitor serves one client at a time: a second one is let into the queue and hears nothing
until the first leaves, so silence most often means that libvirt or another manager is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from giveback.errors import VmError
from giveback.vmm.clients.sockets import connect_unix, is_queued, reason
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qemu.qmp import Message

LINE_LIMIT_BYTES = 4 << 20
"""The longest answer that is taken; `info mtree -f` of a large machine is below 200 KiB."""
_GOODBYE_S = 1.0
_HELD_AFTER_S = 1.0
"""A monitor whose queue we are still in after this is another program's, and not only for some questions."""


class _Client(QMPClient):
    """Without qemu.qmp's debug log, for which it formats every message, asked for or not.

    Reads `-qmp-pretty`, too, whose messages take many lines: the last one is a brace alone.
    """

    async def _readline(self) -> bytes:
        line = await super()._readline()
        if line.rstrip() != b"{":
            return line
        lines, length = [line], 0
        while line.rstrip(b"\r\n") != b"}":
            line = await super()._readline()
            lines.append(line)
            length += len(line)
            if length > LINE_LIMIT_BYTES:
                raise EOFError(f"a message of more than {LINE_LIMIT_BYTES} bytes")
        return b"".join(lines)

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class Monitor:
    """An open QMP session: `ask` one question at a time."""

    def __init__(self, client: QMPClient, address: str = "") -> None:
        self._client = client
        self._address = address

    async def ask(self, command: str, **arguments: object) -> object:
        """The answer to a command, or None where this QEMU knows no such thing or refuses it."""
        try:
            return await self._client.execute(command, arguments or None)
        except ExecuteError:
            return None

    async def tell(self, command: str, **arguments: object) -> object:
        """Carry a command out. Raises VmError with QEMU's words where it refuses."""
        try:
            return await self._client.execute(command, arguments or None)
        except ExecuteError as error:
            words = escape_for_terminal(str(error), 300)
            raise VmError(f"{self._address}: QEMU refuses {command}: {words}") from error

    async def ask_human(self, line: str) -> str:
        """The text that a human-monitor command prints, or ''."""
        answer = await self.ask("human-monitor-command", **{"command-line": line})
        return answer.replace("\r\n", "\n") if isinstance(answer, str) else ""


@contextlib.asynccontextmanager
async def monitor(address: str, timeout_s: float) -> AsyncIterator[Monitor]:
    """Open a session at a unix socket's path, `@name` or `host:port`, for at most `timeout_s` in all.

    Raises VmError, whose text says what is wrong with the socket and what to do.
    """
    client = _Client(readbuflen=LINE_LIMIT_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            await _connect_unless_held(client, address)
            yield Monitor(client, address)
    except TimeoutError as error:
        raise VmError(_silent(address, timeout_s)) from error
    except ConnectError as error:
        raise VmError(f"{address}: {_cause(error)}") from error
    except QMPError as error:
        raise VmError(f"{address}: what answers is no QMP: {str(error)[:200]}") from error
    except EOFError as error:
        raise VmError(f"{address}: QEMU hung up; it may have ended") from error
    except OSError as error:
        raise VmError(f"{address}: {reason(error)}") from error
    finally:
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            await asyncio.wait_for(client.disconnect(), _GOODBYE_S)


def _silent(address: str, waited_s: float) -> str:
    return (
        f"{address}: no answer in {waited_s:g} s; another program (libvirt?) may hold this "
        "monitor, or QEMU is stopped"
    )


async def _connect_unless_held(client: QMPClient, address: str) -> None:
    """Connect; where another client is served and we wait behind it, give up early. Raises VmError."""
    connecting = asyncio.ensure_future(_connect(client, address))
    try:
        done, _ = await asyncio.wait({connecting}, timeout=_HELD_AFTER_S)
        if not done and is_queued(address):
            raise VmError(_silent(address, _HELD_AFTER_S))
        await connecting
    finally:
        if not connecting.done():
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, QMPError, EOFError, OSError):
                await connecting


async def _connect(client: QMPClient, address: str) -> None:
    host, _, port = address.rpartition(":")
    is_unix = "/" in address or address.startswith("@")
    if not is_unix and not (
        port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 1 << 16
    ):
        raise VmError(f"{address}: neither a socket's path nor host:port")
    try:
        await client.connect(connect_unix(address) if is_unix else (host or "localhost", int(port)))
    except AssertionError as error:
        # qemu.qmp takes it for granted that who has greeted is still there.
        raise EOFError from error


def _cause(error: ConnectError) -> str:
    if isinstance(error.exc, OSError):
        return reason(error.exc)
    if isinstance(error.exc, EOFError):
        return "QEMU hung up; it may have ended"
    return f"what answers is no QMP: {str(error.exc)[:200]}"
