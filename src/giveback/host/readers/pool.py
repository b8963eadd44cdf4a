"""The pool of readers: a few child processes that read whatever a stranger controls, each call limited.

A stranger's command line may lie on a FUSE page that is never served, or its socket in a folder that never
answers. A call into either may hang so that not even SIGKILL ends it. A reader that takes too long is
killed. One that survives is abandoned: nothing waits for it, and another is started. `blame.py` records
the process at which it hung.

A reader sends one answer for each item, so that the pool knows at which one it hangs. The pool is not bound
to an event loop: a command may run several loops, one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.host import own_root
from giveback.host.process_sample import read_process_sample
from giveback.host.readers import frames, plain, starter
from giveback.host.readers.blame import HUNG_LIMIT, Blame, Culprit

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

_SIZE = 3
_KILLED_S = 0.5
"""How long a killed reader may take to end; one that waits for FUSE never does."""
_START_S = 10.0
_ITEMS_AT_ONCE = 512
_SLOW_S = 1.0
"""If the caller cancels a call, its item counts as slow if it took longer than this."""
_OK, _REFUSED, _DEFECT, _PINNED = range(4)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one item: seconds of wall-clock time, and of CPU time."""

    wall_s: float
    cpu_s: float


SHORT = Limits(wall_s=3.0, cpu_s=2.0)
"""The limits for a command line, or a connection to a socket."""


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work for a reader: the arguments, and the process to blame if it hangs."""

    pid: int
    arguments: tuple[object, ...]


class _Hung(Exception):  # noqa: N818
    """A reader did not answer in time, or ended."""


@dataclass(slots=True)
class _Reader:
    pid: int
    connection: socket.socket
    incoming: frames.Incoming = field(default_factory=frames.Incoming)

    def close(self) -> None:
        self.incoming.close()
        self.connection.close()


class Readers:
    """The pool. At most _SIZE readers work at a time; each is started when it is needed.

    Call `start` before the program has threads; otherwise the first call does it.
    """

    def __init__(self) -> None:
        self.blame = Blame()
        self._starter: socket.socket | None = None
        self._starter_pid = 0
        self._idle: list[_Reader] = []
        self._hanging: list[_Reader] = []
        self._killed: list[_Reader] = []
        """Readers that were killed just now, until it is known whether they end or hang."""
        self._ending: set[asyncio.Task[None]] = set()
        self._judged: dict[int, asyncio.Event] = {}
        """By PID, processes whose reader was just killed: other calls wait until the result is known."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = asyncio.Semaphore(_SIZE)
        self._starting = asyncio.Lock()

    def start(self) -> None:
        """Fork the starter, which forks the readers. Raises VmError if the system refuses."""
        if self._starter is None:
            try:
                self._starter, self._starter_pid = starter.start()
            except OSError as error:
                raise VmError(f"no reader process can be started: {error.strerror}") from error

    def close(self) -> None:
        """End every reader that can be ended, without waiting for any."""
        for reader in self._idle + self._hanging + self._killed:
            reader.close()
        self._idle, self._hanging, self._killed = [], [], []
        if self._starter is not None:
            # The starter reads nothing that could hang, and ends when its socket is closed.
            self._starter.close()
            self._starter = None
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._starter_pid, 0)

    async def call(
        self, function: Callable[..., object], *arguments: object, pid: int, limits: Limits
    ) -> object:
        """Run a module's function in a reader and return its result as plain values.

        A function may return a tuple of a socket or a PinnedFile and a value: the same object is then
        returned with the value, and the caller closes it.

        `pid` is the process that is read. Raises VmError with the function's own message, or if the reader
        hangs or the process is not read any more.
        """
        (result,) = await self.each(function, [Item(pid, arguments)], limits)
        if isinstance(result, VmError):
            raise result
        return result

    async def each(
        self, function: Callable[..., object], items: Sequence[Item], limits: Limits
    ) -> list[object]:
        """Run a module's function for each item; return the results, with a VmError for each failed item."""
        self._use_loop()
        self._sweep()
        results: list[object] = []
        async with self._free:
            while len(results) < len(items):
                first = len(results)
                if judged := self._judged.get(items[first].pid):
                    await judged.wait()
                refusal = self._refusal(items[first].pid, _name(function))
                if refusal:
                    results.append(VmError(refusal))
                    continue
                batch = self._batch(items, first)
                try:
                    await self._run(function, batch, limits, results)
                except _Hung as failure:
                    results.append(VmError(str(failure)))
        return results

    @property
    def problems(self) -> tuple[str, ...]:
        """Messages for the operator about processes that make their readers hang."""
        return self.blame.problems()

    def forget(self, pid: int) -> None:
        """Forget the failures of a process that has ended."""
        self.blame.forget(pid)

    def keep(self, pids: Container[int]) -> None:
        """Forget the failures of all processes except these: the others have ended."""
        for pid in self.blame.suspects:
            if pid not in pids:
                self.blame.forget(pid)

    # One batch.

    def _batch(self, items: Sequence[Item], first: int) -> Sequence[Item]:
        """Return the items from `first` for one request: none that may have to be refused in the meantime."""
        if self.blame.is_strict:
            return items[first : first + 1]
        suspects = self.blame.suspects | self._judged.keys()
        end = first + 1
        while end < min(len(items), first + _ITEMS_AT_ONCE) and items[end].pid not in suspects:
            end += 1
        return items[first:end]

    async def _run(
        self,
        function: Callable[..., object],
        batch: Sequence[Item],
        limits: Limits,
        results: list[object],
    ) -> None:
        """Add a result for each item. Raises _Hung for the item that the reader does not answer."""
        reader = await self._reader()
        begun_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        name = _name(function)
        asked = [name, limits.cpu_s, [plain.pack(item.arguments) for item in batch]]
        done = 0
        try:
            async with asyncio.timeout(limits.wall_s):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(reader.connection, frames.framed(plain.encode(asked)))
            for item in batch:
                async with asyncio.timeout(limits.wall_s):
                    body, fd = await _next(reader)
                results.append(_result(body, fd))
                done += 1
                self.blame.answered(item.pid, name)
        except TimeoutError as error:
            why = f"did not answer in {limits.wall_s:g} s"
            raise await self._give_up(reader, batch[done].pid, begun_s, why) from error
        except (OSError, ValueError, EOFError) as error:
            why = f"ended: {error}" if str(error) else "ended: it exceeded its limits"
            raise await self._give_up(reader, batch[done].pid, begun_s, why) from error
        except BaseException:
            # Cancelled: a late answer would be mistaken for that to another request, so the reader is ended.
            # The caller's own timeout may be shorter than `limits`, so the process is blamed all the same.
            now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            end = self._end(reader, batch[done].pid, begun_s, is_slow=now_s - begun_s > _SLOW_S)
            ending = asyncio.get_running_loop().create_task(end)
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            raise
        self._idle.append(reader)

    async def _give_up(self, reader: _Reader, pid: int, begun_s: float, why: str) -> _Hung:
        """End a reader that hangs or has died; return the error to raise."""
        await self._end(reader, pid, begun_s, is_slow=True)
        return _Hung(f"process {pid} cannot be read: its reader {why}")

    async def _end(self, reader: _Reader, pid: int, begun_s: float, *, is_slow: bool) -> None:
        """Kill a reader, and record the process that it read, if that process is still the same.

        `is_slow`: whether it counts as a failure of the process if the reader can be killed.
        """
        self._kill(reader)
        self._killed.append(reader)
        judged = self._judged[pid] = asyncio.Event()
        is_gone = False
        try:
            is_gone = await _ends(reader, _KILLED_S)
        finally:
            # `close` may have emptied the list meanwhile.
            if reader in self._killed:
                self._killed.remove(reader)
                self._blame(reader, pid, begun_s, is_slow=is_slow, is_gone=is_gone)
            judged.set()
            if self._judged.get(pid) is judged:
                del self._judged[pid]

    def _blame(
        self, reader: _Reader, pid: int, begun_s: float, *, is_slow: bool, is_gone: bool
    ) -> None:
        sample = read_process_sample("/", pid)
        is_same = sample is not None and sample.started_s <= begun_s
        culprit = Culprit(pid, sample.started_s if sample else 0.0, sample.uid if sample else None)
        if is_gone:
            reader.close()
            if is_same and is_slow:
                self.blame.slow(culprit, time.monotonic())
        else:
            self._hanging.append(reader)
            self.blame.hangs(reader.pid, culprit)
            if not is_same:
                self.blame.forget(pid)

    def _refusal(self, pid: int, function: str) -> str:
        if not self.blame.is_strict and pid not in self.blame.suspects:
            return ""
        sample = read_process_sample("/", pid)
        if sample is None:
            return ""
        culprit = Culprit(pid, sample.started_s, sample.uid)
        return self.blame.refusal(culprit, time.monotonic(), function)

    # The readers.

    async def _reader(self) -> _Reader:
        """Return a free reader. Raises VmError if none can be started."""
        while self._idle:
            reader = self._idle.pop()
            if not _has_ended(reader):
                return reader
            reader.close()
        hanging = len(self._hanging) + len(self._killed)
        if hanging >= HUNG_LIMIT:
            raise VmError(f"{hanging} readers hang: no further one is started")
        async with self._starting:
            return await self._started()

    async def _started(self) -> _Reader:
        self.start()
        connection = self._starter
        assert connection is not None  # noqa: S101
        try:
            async with asyncio.timeout(_START_S):
                connection.send(starter.NEW)
                await _readable(connection)
            text, fds, _, _ = socket.recv_fds(connection, 64, 1)
        except (OSError, TimeoutError) as error:
            self._starter_lost()
            raise VmError(f"no reader can be started: {error}") from error
        if not fds:
            if not text:
                self._starter_lost()
            raise VmError("no reader can be started: the system's limit of processes is reached")
        to_reader = socket.socket(fileno=fds[0])
        to_reader.setblocking(False)
        return _Reader(int(text), to_reader)

    def _starter_lost(self) -> None:
        """Drop a starter that has ended or whose answer would be late: the next call forks another."""
        if self._starter is not None:
            self._starter.close()
            self._starter = None
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._starter_pid, os.WNOHANG)

    def _kill(self, reader: _Reader) -> None:
        if self._starter is not None:
            with contextlib.suppress(OSError):
                self._starter.send(starter.KILL + b"%d" % reader.pid)

    def _sweep(self) -> None:
        """Forget the hung readers that have ended since."""
        for reader in self._hanging[:]:
            if _has_ended(reader):
                self._hanging.remove(reader)
                self.blame.ended(reader.pid, time.monotonic())
                reader.close()

    def _use_loop(self) -> None:
        """Make new locks if the event loop has changed: a lock belongs to the loop that waits at it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._free = asyncio.Semaphore(_SIZE)
            self._starting = asyncio.Lock()


@functools.cache
def shared() -> Readers:
    """Return the pool of this program."""
    return Readers()


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _result(body: bytes, fd: int) -> object:
    """Return a reader's result, or its error as a VmError.

    Raises ValueError if the answer is malformed, and OSError if the descriptor is not a socket's.
    """
    with own_root.PinnedFile(fd) as sent:
        kind, value = _parsed(body)
        if kind == _OK and fd < 0:
            return value
        if kind == _OK:
            connection = socket.socket(fileno=fd)
            sent.detach()
            return connection, value
        if kind == _PINNED and fd >= 0:
            return own_root.PinnedFile(sent.detach()), value
    return VmError(str(value) if kind == _REFUSED else f"cannot be read: {value}")


def _parsed(body: bytes) -> tuple[int, object]:
    """Return an answer's kind and value. Raises ValueError if it is malformed."""
    answer = plain.decode(body)
    if (
        not isinstance(answer, list)
        or len(answer) != 2
        or answer[0] not in (_OK, _REFUSED, _DEFECT, _PINNED)
    ):
        raise ValueError("its answer has neither a result nor an error")
    return answer[0], answer[1]


async def _next(reader: _Reader) -> tuple[bytes, int]:
    """Return the reader's next message. Raises EOFError if it has ended, ValueError if it is too long."""
    while (message := reader.incoming.take()) is None:
        try:
            if not reader.incoming.receive(reader.connection):
                raise EOFError
        except BlockingIOError:
            await _readable(reader.connection)
    return message


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(connection)


async def _ends(reader: _Reader, within_s: float) -> bool:
    """Return whether the reader ends within this time; its late answers are ignored."""
    try:
        async with asyncio.timeout(within_s):
            while not _has_ended(reader):
                await _readable(reader.connection)
    except TimeoutError:
        # If this loop was held up, the reader may have ended in time and the timer has come first.
        return _has_ended(reader)
    return True


def _has_ended(reader: _Reader) -> bool:
    """Return whether the reader has ended; what it sent before that is dropped."""
    try:
        while reader.connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
