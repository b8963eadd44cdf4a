"""The history, read for the replay: its moments once, then one frame for each place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from giveback.manager.history import frames
from giveback.manager.history.schema import TIERS
from giveback.top.replay import Scrub, snapshot_at
from giveback.top.sources.host import names_of

if TYPE_CHECKING:
    from giveback.manager.history.records import HistoryFrame
    from giveback.manager.http.client import Client
    from giveback.top.model import TopSnapshot


STEP_S = TIERS[0].step_s
"""Between the finest rows."""


class Past(Protocol):
    """Where moments and frames come from. Methods raise a GivebackError, and may take a second."""

    def newest(self) -> int | None:
        """Return the wall seconds of the newest row; None if there is none."""

    def moments(self, from_s: int, to_s: int) -> tuple[int, ...]:
        """Return the times of the host's rows between two wall times."""

    def frame(self, at_s: int) -> HistoryFrame:
        """Return all VMs at one of the moments."""


class FilePast:
    """The history's file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def newest(self) -> int | None:
        """Implement `Past`."""
        return frames.newest(self._path)

    def moments(self, from_s: int, to_s: int) -> tuple[int, ...]:
        """Implement `Past`."""
        return frames.moments(self._path, from_s, to_s)

    def frame(self, at_s: int) -> HistoryFrame:
        """Implement `Past`."""
        return frames.frame(self._path, at_s)


class DaemonPast:
    """The daemon, for a user who may not read the file."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def newest(self) -> int | None:
        """Implement `Past`; the daemon's rows end now."""
        return int(time.time())

    def moments(self, from_s: int, to_s: int) -> tuple[int, ...]:
        """Implement `Past`."""
        return tuple(row.at_s for row in self._client.history(from_s, to_s).host)

    def frame(self, at_s: int) -> HistoryFrame:
        """Implement `Past`."""
        return self._client.frame(at_s)


class HistoryReplay:
    """A history's last `since_s` seconds. Methods raise a GivebackError, and may take a second."""

    def __init__(self, past: Past, since_s: float) -> None:
        self._past, self._since_s = past, since_s
        self._owners: dict[int, str] = {}

    def begin(self) -> Scrub:
        """Return the moments of the file, the newest first shown.

        The span ends with the file's newest row: a clock that was set back leaves rows after now.
        """
        newest_s = self._past.newest()
        end_s = int(time.time()) if newest_s is None else newest_s
        return Scrub.over(self._past.moments(end_s - int(self._since_s), end_s + 1))

    def recent(self, last_s: int) -> list[TopSnapshot]:
        """Return the snapshots of the last seconds by today's clock, oldest first, one every STEP_S."""
        now_s = int(time.time())
        times = self._past.moments(now_s - last_s, now_s + 1)
        return [self.snapshot(at_s) for at_s in times]

    def snapshot(self, wall_s: int) -> TopSnapshot:
        """Return the snapshot of one moment."""
        frame = self._past.frame(wall_s)
        self._owners |= names_of((vm.uid for vm in frame.vms), self._owners)
        return snapshot_at(frame, self._owners)
