"""Send changes of the manager's status to listeners as server-sent events, bounded for each listener.

One task polls the status, once a second while there are listeners, and sends what changed. A listener that
does not read delays no other. Once it reads again, it gets the number of events that it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from giveback.manager.http.answers import encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from giveback.manager.model import DaemonStatus, ManagerAction, VmStatus

POLL_S = 1.0
QUIET_S = 5.0
"""Seconds between two polls without listeners: actions are counted for /metrics then as well."""
WAITING = 256
KEEP_ALIVE_S = 15.0
EVENTS = ("status", "vm", "gone", "action", "missed")


def event(name: str, value: object) -> bytes:
    """Return one event in its wire format. The JSON contains no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + encoded(value) + b"\n\n"


def summary(status: DaemonStatus) -> dict[str, object]:
    """Return the status without its VMs and actions, which have events of their own."""
    return {
        "wall_s": status.wall_s,
        "host": status.host,
        "urgency": status.decision.urgency if status.decision else None,
        "deficit_bytes": status.decision.deficit_bytes if status.decision else None,
        "reason": status.decision.reason if status.decision else "",
        "vms": len(status.vms),
        "resident_bytes": sum(vm.resident_bytes or 0 for vm in status.vms),
        "problems": status.problems,
    }


def changes(before: DaemonStatus | None, now: DaemonStatus) -> Iterator[tuple[str, object]]:
    """Yield the events between two statuses: each one's name and data. Pure."""
    yield "status", summary(now)
    known = {vm.key: vm for vm in before.vms} if before else {}
    for vm in now.vms:
        old = known.pop(vm.key, None)
        if old is None or _mark(old) != _mark(vm):
            yield "vm", vm
    for key in known:
        yield "gone", {"key": key}
    done = {action.id: action for action in before.actions} if before else {}
    yield from (("action", one) for one in now.actions if _is_new(done.get(one.id), one))


def _mark(vm: VmStatus) -> tuple[object, ...]:
    """Return the fields whose change is worth an event; a VM's amounts change all the time."""
    return (vm.condition, vm.condition_text, vm.urgency, vm.balloon_lease_bytes)


def _is_new(old: ManagerAction | None, action: ManagerAction) -> bool:
    return old is None or (old.measured_bytes, old.verdict) != (
        action.measured_bytes,
        action.verdict,
    )


class FeedListener:
    """One listener's queue of events, at most WAITING of them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING)
        self._missed = 0

    def put(self, data: bytes | None) -> None:
        """Add an event without waiting, or count it as missed; None ends the stream in any case."""
        try:
            self._queue.put_nowait(data)
        except asyncio.QueueFull:
            self._missed += 1
            if data is None:
                self._queue.get_nowait()
                self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events to send until the feed ends, and a comment after 15 s without one."""
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    data = await self._queue.get()
            except TimeoutError:
                data = b": quiet\n\n"
            if data is None:
                return
            yield data
            if self._missed and self._queue.empty():
                missed, self._missed = self._missed, 0
                yield event("missed", {"events": missed})


class Feed:
    """Polls the status, and sends its changes to the listeners; `saw` is called with each new status."""

    def __init__(
        self, take: Callable[[], DaemonStatus], saw: Callable[[DaemonStatus], None]
    ) -> None:
        self._take = take
        self._saw = saw
        self._listeners: set[FeedListener] = set()
        self._last: DaemonStatus | None = None
        self._ended = False
        self._wanted = asyncio.Event()

    @contextlib.contextmanager
    def listener(self) -> Iterator[FeedListener]:
        """Yield a listener that gets events while the block runs; the first is the present status."""
        one = FeedListener()
        if self._last is not None:
            one.put(event("status", summary(self._last)))
        if self._ended:
            one.put(None)
        self._listeners.add(one)
        self._wanted.set()
        try:
            yield one
        finally:
            self._listeners.discard(one)

    async def run(self) -> None:
        """Poll until this task is cancelled."""
        while True:
            self.poll()
            if self._listeners:
                await asyncio.sleep(POLL_S)
                continue
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._wanted.wait()

    def poll(self) -> None:
        """Send what changed since the last poll."""
        now = self._take()
        if now is self._last:
            return
        self._saw(now)
        if self._listeners:
            events = [event(name, value) for name, value in changes(self._last, now)]
            for one in self._listeners:
                for data in events:
                    one.put(data)
        self._last = now

    def end(self) -> None:
        """End every listener's stream, so that the server can stop."""
        self._ended = True
        for one in self._listeners:
            one.put(None)
