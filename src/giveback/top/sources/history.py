"""The history's file, read for the replay: its moments once, then one frame for each place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from giveback.manager.history import frames
from giveback.manager.history.schema import TIERS
from giveback.top.replay import Scrub, snapshot_at
from giveback.top.sources.host import names_of

if TYPE_CHECKING:
    from giveback.top.model import TopSnapshot


STEP_S = TIERS[0].step_s
"""Between the finest rows."""


class HistoryReplay:
    """A history's last `since_s` seconds. Methods raise HistoryError, and may take a second."""

    def __init__(self, path: str, since_s: float) -> None:
        self._path, self._since_s = path, since_s
        self._owners: dict[int, str] = {}

    def begin(self) -> Scrub:
        """Return the moments of the file, the newest first shown.

        The span ends with the file's newest row: a clock that was set back leaves rows after now.
        """
        newest_s = frames.newest(self._path)
        end_s = int(time.time()) if newest_s is None else newest_s
        return Scrub.over(frames.moments(self._path, end_s - int(self._since_s), end_s + 1))

    def recent(self, last_s: int) -> list[TopSnapshot]:
        """Return the snapshots of the last seconds by today's clock, oldest first, one every STEP_S."""
        now_s = int(time.time())
        times = frames.moments(self._path, now_s - last_s, now_s + 1)
        return [self.snapshot(at_s) for at_s in times]

    def snapshot(self, wall_s: int) -> TopSnapshot:
        """Return the snapshot of one moment."""
        frame = frames.frame(self._path, wall_s)
        self._owners |= names_of((vm.uid for vm in frame.vms), self._owners)
        return snapshot_at(frame, self._owners)
