"""Connect the host to the lab's port of a guest: requests to `giveback_lab_guest.serve`, events back."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from giveback.errors import VmError
from giveback.guest.protocol import parse_object

LINE_LIMIT_BYTES = 4 << 20
# The most output of one program in a guest that the host keeps.
KEPT_LINES = 50_000
KEPT_BYTES = 16 << 20
Event = dict[str, Any]
LineHandler = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The output (stdout and stderr together) and the exit code of a program in the guest."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The output as one string."""
        return "\n".join(self.lines)


class GuestLink:
    """Send requests and receive events over one connection.

    `on_sample` is called with each sample event as it arrives.
    """

    def __init__(self, vm_name: str) -> None:
        self._vm_name = vm_name
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Event]] = {}
        self._lines: dict[int, LineHandler] = {}
        self._hello: asyncio.Event = asyncio.Event()
        self.on_sample: Callable[[Event], None] = lambda _: None

    async def connect(self, path: str) -> None:
        """Connect to QEMU's socket and start to read."""
        reader, self._writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT_BYTES)
        self._reader_task = asyncio.create_task(self._read(reader))

    async def wait_hello(self) -> None:
        """Wait until the guest's program is up."""
        await self._hello.wait()

    async def close(self) -> None:
        """Stop reading. Every request that still waits for an answer raises VmError."""
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        self._fail("the connection was closed")

    async def request(self, do: str, on_line: LineHandler | None = None, **fields: object) -> Event:
        """Send one request and return its last event. Raises VmError."""
        if self._writer is None:
            raise VmError(f"{self._vm_name}: the lab's port is not connected")
        self._number += 1
        number = self._number
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        if on_line is not None:
            self._lines[number] = on_line
        self._writer.write(json.dumps({"id": number, "do": do, **fields}).encode() + b"\n")
        event = await future
        if "code" not in event:
            raise VmError(f"{self._vm_name}: {do}: the guest refused: {event.get('reason')!r}")
        return event

    async def exec(
        self, *argv: str, on_line: LineHandler | None = None, timeout_s: float = 300
    ) -> ExecResult:
        """Run a program in the guest until it exits. Raises VmError if it takes longer than `timeout_s`."""
        lines: list[str] = []
        left_bytes = KEPT_BYTES

        def keep(line: str) -> None:
            nonlocal left_bytes
            left_bytes -= len(line)
            if left_bytes > 0 and len(lines) < KEPT_LINES:
                lines.append(line)
            if on_line is not None:
                on_line(line)

        try:
            event = await asyncio.wait_for(self.request("exec", keep, argv=list(argv)), timeout_s)
        except TimeoutError as error:
            raise VmError(
                f"{self._vm_name}: `{argv[0]}` did not end within {timeout_s:.0f} s"
            ) from error
        if "reason" in event:
            lines.append(str(event["reason"]))
        return ExecResult(self._number_in(event, "code"), tuple(lines))

    async def spawn(self, *argv: str, on_line: LineHandler | None = None) -> int:
        """Start a program without waiting for it; return its process id in the guest."""
        event = await self.request("spawn", on_line, argv=list(argv))
        return self._number_in(event, "pid")

    async def kill(self, pid: int, signal_number: int) -> None:
        """Send a signal to a guest process. Raises VmError if it does not exist."""
        event = await self.request("kill", pid=pid, signal=signal_number)
        self._must_be_done(event, f"kill {pid}")

    async def sample_now(self) -> None:
        """Have the guest send a sample now. `on_sample` has been called with it when this returns."""
        self._must_be_done(await self.request("look"), "look")

    async def put(self, path: str, data: bytes) -> None:
        """Write a small file in the guest."""
        event = await self.request("put", path=path, data=base64.b64encode(data).decode())
        self._must_be_done(event, f"put {path}")

    def _must_be_done(self, event: Event, what: str) -> None:
        if event["code"] != 0:
            raise VmError(f"{self._vm_name}: {what}: {str(event.get('reason'))[:200]}")

    def _number_in(self, event: Event, name: str) -> int:
        value = event.get(name)
        if not isinstance(value, int):
            raise VmError(
                f"{self._vm_name}: the guest answered {name} {str(value)[:80]!r}: no number"
            )
        return value

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(line)
        except (ValueError, ConnectionError) as error:
            self._fail(f"the lab's port broke: {error}")
            return
        self._fail("the VM ended")

    def _take(self, line: bytes) -> None:
        event = parse_object(line)
        kind, number = event.get("event"), event.get("id")
        if kind == "hello":
            self._hello.set()
        elif kind == "sample":
            self.on_sample(event)
        elif not isinstance(number, int):
            return
        elif kind == "line" and number in self._lines:
            self._lines[number](str(event.get("line", "")))
        elif kind == "exit" and number in self._waiting:
            if "pid" not in event:
                self._lines.pop(number, None)
            future = self._waiting.pop(number)
            if not future.done():
                future.set_result(event)
        elif kind == "ended":
            self._lines.pop(number, None)

    def _fail(self, reason: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(VmError(f"{self._vm_name}: {reason}"))
        self._waiting.clear()
