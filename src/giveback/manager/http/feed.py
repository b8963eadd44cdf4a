"""What changes, to whoever listens: server-sent events, bounded for each listener.

One task looks at the manager's picture, once a second while somebody listens, and tells what is
new. A listener that does not read is told that it missed something, once it reads again; nobody
waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from giveback.manager.http.answers import encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from giveback.manager.model import DaemonStatus, ManagerAction, VmStatus

LOOK_S = 1.0
QUIET_S = 5.0
"""Between looks while nobody listens: actions are counted all the same."""
WAITING = 256
KEEP_ALIVE_S = 15.0
EVENTS = ("status", "vm", "gone", "action", "missed")


def event(name: str, value: object) -> bytes:
    """One event as it goes over the wire. JSON has no line ends in it."""
    return b"event: " + name.encode() + b"\ndata: " + encoded(value) + b"\n\n"


def summary(status: DaemonStatus) -> dict[str, object]:
    """The picture without its VMs and actions, which have events of their own."""
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
    """What happened between two pictures: each event's name and data. Pure."""
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
    """What of a VM is worth an event; its amounts change all the time."""
    return (vm.condition, vm.condition_text, vm.urgency, vm.balloon_lease_bytes)


def _is_new(old: ManagerAction | None, action: ManagerAction) -> bool:
    return old is None or (old.measured_bytes, old.verdict) != (
        action.measured_bytes,
        action.verdict,
    )


class FeedListener:
    """One that listens: its events wait here, at most WAITING of them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING)
        self._missed = 0

    def put(self, data: bytes | None) -> None:
        """Never waits; None ends it, whatever is in the way."""
        try:
            self._queue.put_nowait(data)
        except asyncio.QueueFull:
            self._missed += 1
            if data is None:
                self._queue.get_nowait()
                self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[bytes]:
        """What to send, until the feed ends; a comment where all is quiet."""
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
    """Looks at the picture and tells the listeners; `saw` hears of each new picture as well."""

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
        """Listen while the block runs; the first events are the picture as it is."""
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
        """Until it is cancelled: look, and tell."""
        while True:
            self.look()
            if self._listeners:
                await asyncio.sleep(LOOK_S)
                continue
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._wanted.wait()

    def look(self) -> None:
        """Tell what is new since the last look."""
        now = self._take()
        if now is self._last:
            return
        self._saw(now)
        if self._listeners:
            told = [event(name, value) for name, value in changes(self._last, now)]
            for one in self._listeners:
                for data in told:
                    one.put(data)
        self._last = now

    def end(self) -> None:
        """Every listener's stream ends, so that the server can."""
        self._ended = True
        for one in self._listeners:
            one.put(None)
