"""A QMP conversation that is bounded in time and bytes, whatever answers at the other end.

QEMU's monitor serves one client at a time: a second one is let into the queue and hears nothing
until the first leaves, so silence most often means that libvirt or another manager is connected.
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
from giveback.vmm.clients import bounded_json, owned
from giveback.vmm.clients.sockets import reason
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

LINE_LIMIT_BYTES = bounded_json.BYTES_LIMIT
"""The longest answer that is taken."""
_BUFFER_BYTES = 3 * LINE_LIMIT_BYTES
"""What a session may hold unread: asyncio stops reading at twice the limit, with what comes at once."""
_SESSION_BYTES = 32 << 20
"""The most memory that the answers of one session take, with all that is made of them."""
_MEMORY_OF_A_USER_BYTES = 96 << 20
_MEMORY = Budget(in_all=2 * _MEMORY_OF_A_USER_BYTES, each=_MEMORY_OF_A_USER_BYTES)
"""Of all open sessions, and of all with one user's monitors."""
_READ_LIMIT_BYTES = 16 << 20
"""In one session, with events that are dropped: it lasts for a few seconds."""
_LINES_LIMIT = 1 << 16
_LINES_A_TURN = 128
"""After so many lines other sessions have their turn: reading what has come already does not wait."""
_GOODBYE_S = 1.0
_HELD_AFTER_S = 1.0
"""A monitor whose queue we are still in after this is another program's, and not only for some questions."""


_EVENT = re.compile(rb'\s*\{\s*"(?:timestamp|event)"\s*:')
_OUR_ID = b"__qmp#"
"""How qemu.qmp numbers what it asks; QEMU answers with the same number."""
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:')


class _TooMuchError(QMPError):
    """What answers sends more than a monitor has to say."""


class _Client(QMPClient):
    """Bounded, and without qemu.qmp's debug log, for which it formats every message, asked for or not.

    What is no answer to a question of ours (an event, above all) is dropped before it is parsed: qemu.qmp
    would keep each event for a listener. Reads `-qmp-pretty`, too, whose messages take many lines: the
    last one is a brace alone.
    """

    def __init__(self) -> None:
        super().__init__(readbuflen=LINE_LIMIT_BYTES)
        self.account: Account | None = None
        self.too_much = ""
        """Why the session was ended, in words; "" where it was not for too much."""
        self._read_bytes = self._lines = 0

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
                self._refuse("an answer is no JSON object")
            if self._is_expected(said):
                return Message(said, eager=False)

    def _may_be_answer(self, text: bytes) -> bool:
        """Whether it greets, or answers what we asked: told by the line itself, without parsing it."""
        if self.runstate is not Runstate.RUNNING:
            # The greeting, and the answer to `qmp_capabilities`, which has no number.
            return bool(text.strip()) and _EVENT.match(text) is None
        return _OUR_ID in text or _ERROR.match(text) is not None

    def _is_expected(self, said: dict[str, object]) -> bool:
        """Whether somebody waits for it; qemu.qmp would log each that nobody does."""
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
            # asyncio's StreamReader, of a line that passes its limit.
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
            self._refuse("its answers take too much memory")
        if not account.take(amount_bytes):
            self._refuse("the answers of all monitors take too much memory at once")

    def _refuse(self, why: str) -> NoReturn:
        self.too_much = why
        raise _TooMuchError(why)

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

    async def execute(self, command: str, **arguments: object) -> object:
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
async def monitor(address: str, pid: int, timeout_s: float) -> AsyncIterator[Monitor]:
    """Open a session at a unix socket's path, `@name` or `host:port`, for at most `timeout_s` in all.

    The process `pid` must listen there itself. Raises VmError, whose text says what is wrong with the
    socket and what to do.
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
        why = client.too_much or f"what answers is no QMP: {str(error)[:200]}"
        raise VmError(f"{address}: {why}") from error
    except EOFError as error:
        raise VmError(f"{address}: QEMU hung up; it may have ended") from error
    except OSError as error:
        raise VmError(f"{address}: {reason(error)}") from error
    finally:
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            await asyncio.wait_for(client.disconnect(), _GOODBYE_S)
        if client.account is not None:
            client.account.close()


def _silent(address: str, waited_s: float) -> str:
    return (
        f"{address}: no answer in {waited_s:g} s; another program (libvirt?) may hold this "
        "monitor, or QEMU is stopped"
    )


async def _connect_unless_held(client: _Client, address: str, pid: int) -> None:
    """Connect; where another client is served and we wait behind it, give up early. Raises VmError."""
    client.account = Account(_MEMORY, owner_of(read_uid("/", pid)))
    if not client.account.take(_BUFFER_BYTES):
        raise VmError(
            f"{address}: too many monitors of this user are asked at once; tried again later"
        )
    connection = await owned.connect(address, pid)
    connecting = asyncio.ensure_future(_greet(client, connection))
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
        # qemu.qmp takes it for granted that who has greeted is still there.
        raise EOFError from error


def _cause(error: ConnectError) -> str:
    if isinstance(error.exc, OSError):
        return reason(error.exc)
    if isinstance(error.exc, EOFError):
        return "QEMU hung up; it may have ended"
    return f"what answers is no QMP: {str(error.exc)[:200]}"
