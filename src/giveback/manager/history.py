"""Signatures first; the body follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback.manager.model import Action, DaemonStatus


class History:
    """A `Recorder` in an SQLite file of at most `limit_bytes`. Never raises; `close()` at the end."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes

    def status(self, status: DaemonStatus) -> None:
        """Keep what is known now; more often than every 10 s is ignored."""

    def action(self, action: Action) -> None:
        """Keep an action, or what came of it (same `id`)."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps it from recording."""
        return ()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is waiting, and end the writer's thread."""
