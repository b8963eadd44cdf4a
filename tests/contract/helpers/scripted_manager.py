"""A manager whose answers are written down beforehand, served for real: own thread, own loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# The pictures that the unit tests are made of; that folder is on the path only where they run.
sys.path.append(str(Path(__file__).parents[2] / "unit/helpers"))

from manager_samples import action, status, vm_status

from giveback.errors import InputError
from giveback.manager.history.usage.readable import ReadableHistory
from giveback.manager.http.server import Endpoint, Serving, serving
from giveback.manager.http.web.pages import WebPages
from giveback.manager.http.web.sessions import Sessions
from giveback.manager.model import ReclaimResult, Returned
from giveback.manager.settings.load import UsageSettings
from giveback.manager.settings.values import MemoryMark
from giveback_kernel.errors import GivebackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from giveback.manager.model import DaemonStatus

DEADLINE_S = 90.0
__all__ = [
    "Daemon",
    "ScriptedManager",
    "action",
    "past",
    "running",
    "status",
    "vm_status",
    "wait_for",
]


def past(path: Path) -> Callable[[], ReadableHistory | None]:
    """A history that the daemon's clients may read, with a price."""
    return lambda: ReadableHistory(str(path), MemoryMark(0.05), UsageSettings(0.5, "EUR"))


class ScriptedManager:
    """Says what it is told to; remembers what it was asked."""

    def __init__(self, now: DaemonStatus | None = None) -> None:
        self.now = now or status(wall_s=time.time())
        self.asked: list[tuple[object, ...]] = []
        self.gives_bytes: int | None = None
        self.has_bytes: int | None = None
        """The most that can come; None: as much as is wanted."""
        self.given_up = 0
        self.holds = asyncio.Event()
        self.holds.set()

    def status(self) -> DaemonStatus:
        return self.now

    def say(self, **changes: object) -> None:
        """Another picture from now on."""
        self.now = replace(self.now, **changes)  # type: ignore[arg-type]

    async def reclaim(
        self, goal_bytes: int, within_s: float, vms: Sequence[str] = (), *, dry_run: bool = False
    ) -> ReclaimResult:
        if dry_run:
            return self._planned(goal_bytes, vms)
        self.asked.append(("reclaim", goal_bytes, within_s, tuple(vms)))
        try:
            await self.holds.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        given = goal_bytes if self.gives_bytes is None else self.gives_bytes
        name = vms[0] if vms else self.now.vms[0].key
        part = Returned(name, goal_bytes, given, "" if given >= goal_bytes else "cache is in use")
        return ReclaimResult(goal_bytes, given, 0.5, (part,), self._most(goal_bytes))

    def _most(self, goal_bytes: int) -> int:
        return goal_bytes if self.has_bytes is None else self.has_bytes

    def _planned(self, goal_bytes: int, vms: Sequence[str]) -> ReclaimResult:
        name, most = vms[0] if vms else self.now.vms[0].key, self._most(goal_bytes)
        part = Returned(
            name, min(goal_bytes, most), 0, "20 MiB cold" if most else "not asked: no agent"
        )
        return ReclaimResult(goal_bytes, 0, 0.1, (part,), most, dry_run=True)

    async def set_urgency(self, vm: str, urgency: int, lease_s: float) -> None:
        self.asked.append(("urgency", vm, urgency, lease_s))
        if lease_s == 13:
            raise InputError(f"{vm}: does not hear")


class Daemon:
    """The served manager, and the loop it is served on."""

    def __init__(
        self, manager: ScriptedManager, endpoint: Endpoint, sessions_path: Path | None = None
    ) -> None:
        self.manager = manager
        self.endpoint = endpoint
        self.sessions = Sessions(sessions_path)
        self.serving: Serving | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._up = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(DEADLINE_S)
        if self._failed is not None:
            raise self._failed

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            pages = WebPages(self.manager, self.sessions)
            async with serving(self.manager, self.endpoint, pages) as self.serving:
                self._up.set()
                await self._end.wait()
        except GivebackError as error:
            self._failed = error
            self._up.set()

    def do(self, work: Callable[[], object]) -> None:
        """On the daemon's loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(work)

    def stop(self) -> None:
        """Returns when all is shut down; fails where that hangs."""
        if self._loop is not None and self._end is not None and self._thread.is_alive():
            self.do(self._end.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the surfaces do not end"


@contextlib.contextmanager
def running(
    endpoint: Endpoint,
    manager: ScriptedManager | None = None,
    sessions_path: Path | None = None,
) -> Iterator[Daemon]:
    """A daemon's surfaces, up while the block runs."""
    daemon = Daemon(manager or ScriptedManager(), endpoint, sessions_path)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def wait_for(done: Callable[[], object], what: str = "it") -> None:
    """Until that is true, or DEADLINE_S have passed."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s, f"{what} did not come true in {DEADLINE_S:g} s"
        time.sleep(0.01)
