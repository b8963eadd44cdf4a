"""The page's event stream: first the whole status, then its changes every two seconds.

No browser delays another. One that took the last event gets the changes since then; others get the whole
status again. So a browser that slept, or reads slowly, is up to date with its next event.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
from typing import TYPE_CHECKING

from giveback.manager.http.feed import event
from giveback.manager.http.web import rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from giveback.manager.model import DaemonStatus

TURN_S = 2.0
_OWNERS_MOST = 4096


class Owners:
    """The names of users, each looked up once, because that may ask a directory service."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def __call__(self, uid: int) -> str:
        """Return the user's name; the number if the host has no name for it."""
        if uid not in self._names:
            if len(self._names) >= _OWNERS_MOST:
                self._names.clear()
            try:
                self._names[uid] = pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError):
                self._names[uid] = str(uid)
        return self._names[uid]


class _Frame:
    """One turn of the stream: its number, the changes as an event, and the whole status as an event."""

    def __init__(
        self, number: int, status: DaemonStatus, found: dict[str, dict[str, object]], change: bytes
    ) -> None:
        self.number = number
        self.status = status
        self.rows = found
        self.change = change
        self._whole = b""

    def whole(self) -> bytes:
        """Return the whole status as an event; it is made at the first call."""
        self._whole = self._whole or event("all", rows.whole(self.status, self.rows))
        return self._whole


class Live:
    """The stream for all browsers; the status is polled only while there are any."""

    def __init__(self, take: Callable[[], DaemonStatus]) -> None:
        self._take = take
        self._owners = Owners()
        self._frame: _Frame | None = None
        self._number = 0
        self._listeners = 0
        self._wanted, self._turned = asyncio.Event(), asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Poll the status every TURN_S while there are browsers, until cancelled."""
        while True:
            await self._wanted.wait()
            # In a thread: a thousand VMs are a megabyte of JSON, and names may take long.
            self._frame = await asyncio.to_thread(self._next, self._take(), self._frame)
            self._turn()
            await asyncio.sleep(TURN_S)
            if not self._listeners:
                self._wanted.clear()
                # The next browser must not get the changes of a long time.
                self._frame = None

    def end(self) -> None:
        """End every stream."""
        self._ended = True
        self._turn()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events for one browser, until `end`."""
        self._listeners += 1
        self._wanted.set()
        sent = -1
        try:
            while not self._ended:
                turned, frame = self._turned, self._frame
                if frame is None or frame.number == sent:
                    await turned.wait()
                    continue
                if sent >= 0 and frame.number == sent + 1:
                    data = frame.change
                else:
                    data = await asyncio.to_thread(frame.whole)
                yield data
                sent = frame.number
        finally:
            self._listeners -= 1

    def _turn(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    def _next(self, status: DaemonStatus, last: _Frame | None) -> _Frame:
        found = {vm.key: rows.row(vm, status.wall_s, self._owners) for vm in status.vms}
        self._number += 1
        change = b""
        if last is not None:
            change = event("change", rows.delta(last.status, last.rows, status, found))
        return _Frame(self._number, status, found, change)


async def paced(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the events in pieces, and close their source at the end."""
    async with contextlib.aclosing(events) as source:  # type: ignore[type-var]
        async for data in source:
            for start in range(0, len(data), 64 << 10):
                yield data[start : start + (64 << 10)]
