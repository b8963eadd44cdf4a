"""The daemon in this process, among scripted guests, with a recorder that keeps all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from giveback.manager.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripted_guests import Host

    from giveback.manager.model import ActionKind, DaemonStatus, ManagerAction


class Recorded:
    """A recorder that keeps all."""

    problems: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.actions: list[ManagerAction] = []
        self.statuses: list[DaemonStatus] = []

    def action(self, action: ManagerAction) -> None:
        self.actions.append(action)

    def status(self, status: DaemonStatus) -> None:
        self.statuses.append(status)

    def of(self, kind: ActionKind) -> list[ManagerAction]:
        """The actions of one kind, each as it was last."""
        last = {action.id: action for action in self.actions}
        return [action for action in last.values() if action.kind is kind]


@contextlib.asynccontextmanager
async def running(
    host: Host, more: str = "", *, acts: bool = True
) -> AsyncIterator[tuple[Daemon, Recorded]]:
    """Run a daemon with the host's settings and `more` of them; without `acts` it only watches."""
    recorded = Recorded()
    daemon = Daemon(host.settings(more), recorder=recorded, root=str(host.root), acts=acts)
    ready = asyncio.Event()
    task = asyncio.create_task(daemon.run(ready.set))
    await ready.wait()
    try:
        yield daemon, recorded
    finally:
        daemon.stop()
        await task
