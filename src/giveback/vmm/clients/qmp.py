"""QMP sessions that are bounded in time and bytes, whatever program answers.

QEMU's monitor serves one client at a time. A second one is queued and receives nothing until the first
leaves: if no answer comes, libvirt or another manager is usually connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, NoReturn

from qemu.qmp import ConnectError, ExecuteError, Message, QMPClient, QMPError, Runstate

from giveback.errors import VmError
from giveback.host.budgets import Account, Budget, owner_of
from giveback.host.owners import read_uid
from giveback.vmm.base import MONITOR_SILENT
from giveback.vmm.clients import bounded_json, owned
from giveback.vmm.clients.sockets import reason
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

LINE_LIMIT_BYTES = bounded_json.BYTES_LIMIT
"""The longest accepted answer."""
_BUFFER_BYTES = 3 * LINE_LIMIT_BYTES
"""Unread bytes that a session may buffer: asyncio stops reading at twice the limit, plus one read."""
_SESSION_BYTES = 32 << 20
"""Limit of the memory for the answers of one session and the objects parsed from them."""
_MEMORY_OF_A_USER_BYTES = 96 << 20
_MEMORY = Budget(in_all=2 * _MEMORY_OF_A_USER_BYTES, each=_MEMORY_OF_A_USER_BYTES)
"""The same for all open sessions, and for all sessions with the monitors of one user."""
_READ_LIMIT_BYTES = 16 << 20
"""Limit of the bytes read in one session, dropped events included; a session lasts a few seconds."""
_LINES_LIMIT = 1 << 16
_LINES_A_TURN = 128
"""Lines after which other tasks get a turn: reading buffered lines never yields by itself."""
_GOODBYE_S = 1.0
_HELD_AFTER_S = 1.0
"""If we are still queued after this, another program holds the monitor for longer than a few requests."""


_EVENT = re.compile(rb'\s*\{\s*"(?:timestamp|event)"\s*:')
_OUR_ID = b"__qmp#"
"""The prefix of qemu.qmp's request ids; QEMU's answer repeats the id."""
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:')


class _TooMuchError(QMPError):
    """The peer sent more than any monitor needs to."""


class _Client(QMPClient):
    """A client with limits, and without qemu.qmp's debug log, which formats every message even if unused.

    A message that does not answer our request, such as an event, is dropped before it is parsed: qemu.qmp
    would queue each event for a listener. It also reads `-qmp-pretty`, whose messages have many lines: the
    last one is a single brace.
    """

    def __init__(self) -> None:
        super().__init__(readbuflen=LINE_LIMIT_BYTES)
        self.account: Account | None = None
        self.connection: socket.socket | None = None
        """The connected socket, closed by `abandon`. A cancelled `connect` may not have used it yet."""
        self.too_much = ""
        """The exceeded limit that ended the session; "" if none was."""
        self._read_bytes = self._lines = 0

    def abandon(self) -> None:
        """Close the connection now, whatever `disconnect` has done. Call it again without effect."""
        writer = self._writer
        if writer is not None:
            writer.transport.abort()
        if self.connection is not None:
            self.connection.close()

    async def _do_recv(self) -> Message:
        while True:
            text = await self._readline()
            if not self._may_be_answer(text):
                continue
            self._pay(bounded_json.cost_bytes(text))
            try:
                said = bounded_json.parse(text, LINE_LIMIT_BYTES)
            except ValueError as error:
                self._refuse(f"an answer is {error}")
            if not isinstance(said, dict):
                self._refuse("an answer is not a JSON object")
            if self._is_expected(said):
                return Message(said, eager=False)

    def _may_be_answer(self, text: bytes) -> bool:
        """Tell, without parsing it, whether the line may be the greeting or an answer to our request."""
        if self.runstate is not Runstate.RUNNING:
            # The greeting, and the answer to `qmp_capabilities`, which has no id.
            return bool(text.strip()) and _EVENT.match(text) is None
        return _OUR_ID in text or _ERROR.match(text) is not None

    def _is_expected(self, said: dict[str, object]) -> bool:
        """Tell whether a request waits for it; qemu.qmp would log each message without a request."""
        if "event" in said:
            return False
        if self.runstate is not Runstate.RUNNING or "id" not in said:
            return True
        number = said["id"]
        return isinstance(number, str) and number in self._pending

    async def _readline(self) -> bytes:
        line = await self._bounded_line()
        if line.rstrip() != b"{":
            return line
        lines, length = [line], 0
        while line.rstrip(b"\r\n") != b"}":
            line = await self._bounded_line()
            lines.append(line)
            length += len(line)
            if length > LINE_LIMIT_BYTES:
                self._refuse(f"a message is longer than {LINE_LIMIT_BYTES >> 10} KiB")
        return b"".join(lines)

    async def _bounded_line(self) -> bytes:
        self._lines += 1
        if self._lines > _LINES_LIMIT:
            self._refuse(f"more than {_LINES_LIMIT} lines")
        if not self._lines % _LINES_A_TURN:
            await asyncio.sleep(0)
        try:
            line = await super()._readline()
        except ValueError:
            # From asyncio's StreamReader, for a line longer than its limit.
            self._refuse(f"a message is longer than {LINE_LIMIT_BYTES >> 10} KiB")
        self._read_bytes += len(line)
        if self._read_bytes > _READ_LIMIT_BYTES:
            self._refuse(f"more than {_READ_LIMIT_BYTES >> 20} MiB in one session")
        return line

    def _pay(self, amount_bytes: int) -> None:
        account = self.account
        if account is None:
            return
        if account.taken + amount_bytes > _SESSION_BYTES:
            self._refuse("its answers need too much memory")
        if not account.take(amount_bytes):
            self._refuse("the answers of all monitors together need too much memory")

    def _refuse(self, why: str) -> NoReturn:
        self.too_much = why
        raise _TooMuchError(why)

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class Monitor:
    """An open QMP session; it takes one request at a time."""

    def __init__(self, client: QMPClient, address: str = "") -> None:
        self._client = client
        self._address = address

    async def ask(self, command: str, **arguments: object) -> object:
        """Return the answer to a query; None if this QEMU does not have the command, or refuses it."""
        try:
            return await self._client.execute(command, arguments or None)
        except ExecuteError:
            return None

    async def execute(self, command: str, **arguments: object) -> object:
        """Execute a command and return its answer. Raises VmError with QEMU's message if it refuses."""
        try:
            return await self._client.execute(command, arguments or None)
        except ExecuteError as error:
            words = escape_for_terminal(str(error), 300)
            raise VmError(f"{self._address}: QEMU refuses {command}: {words}") from error

    async def ask_human(self, line: str) -> str:
        """Return the text that a human-monitor command prints, or ''."""
        answer = await self.ask("human-monitor-command", **{"command-line": line})
        return answer.replace("\r\n", "\n") if isinstance(answer, str) else ""


@contextlib.asynccontextmanager
async def monitor(address: str, pid: int, timeout_s: float) -> AsyncIterator[Monitor]:
    """Open a session at a unix socket's path, `@name` or `host:port`, for at most `timeout_s` in all.

    The process `pid` itself must listen there. Raises VmError that says what is wrong and what to do.
    """
    client = _Client()
    try:
        async with asyncio.timeout(timeout_s):
            await _connect_unless_held(client, address, pid)
            yield Monitor(client, address)
    except TimeoutError as error:
        raise VmError(_silent(address, timeout_s)) from error
    except ConnectError as error:
        raise VmError(f"{address}: {client.too_much or _cause(error)}") from error
    except QMPError as error:
        why = client.too_much or f"the answer is not QMP: {str(error)[:200]}"
        raise VmError(f"{address}: {why}") from error
    except EOFError as error:
        raise VmError(f"{address}: QEMU closed the connection; it may have ended") from error
    except OSError as error:
        raise VmError(f"{address}: {reason(error)}") from error
    finally:
        try:
            with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
                await asyncio.wait_for(client.disconnect(), _GOODBYE_S)
        finally:
            # Also if this task is cancelled again, or the time is over.
            client.abandon()
            if client.account is not None:
                client.account.close()


def _silent(address: str, waited_s: float) -> str:
    return f"{address}: no answer in {waited_s:g} s; another program (libvirt?) {MONITOR_SILENT}"


async def _connect_unless_held(client: _Client, address: str, pid: int) -> None:
    """Connect; give up early if we are queued behind another client. Raises VmError."""
    client.account = Account(_MEMORY, owner_of(read_uid("/", pid)))
    if not client.account.take(_BUFFER_BYTES):
        raise VmError(
            f"{address}: too many monitors of this user are asked at once; try again later"
        )
    client.connection = await owned.connect(address, pid)
    connecting = asyncio.ensure_future(_greet(client, client.connection))
    try:
        done, _ = await asyncio.wait({connecting}, timeout=_HELD_AFTER_S)
        if not done and await owned.is_queued(address, pid):
            raise VmError(_silent(address, _HELD_AFTER_S))
        await connecting
    finally:
        if not connecting.done():
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, QMPError, EOFError, OSError):
                await connecting


async def _greet(client: QMPClient, connection: socket.socket) -> None:
    try:
        await client.connect(connection)
    except AssertionError as error:
        # qemu.qmp asserts that the peer is still connected after its greeting.
        raise EOFError from error


def _cause(error: ConnectError) -> str:
    if isinstance(error.exc, OSError):
        return reason(error.exc)
    if isinstance(error.exc, EOFError):
        return "QEMU closed the connection; it may have ended"
    return f"the answer is not QMP: {str(error.exc)[:200]}"
