"""One history's file and what it is read with: by commands, and by the daemon for its clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.manager.history import frames, reader
from giveback.manager.history.usage.report import read_usage

if TYPE_CHECKING:
    from giveback.manager.history.records import HistoryFrame, HistorySpan
    from giveback.manager.history.usage.totals import UsageReport
    from giveback.manager.settings.load import DaemonSettings, UsageSettings
    from giveback.manager.settings.values import MemoryMark


@dataclass(frozen=True, slots=True)
class ReadableHistory:
    """A file, and the settings that a report of use depends on. Its methods raise HistoryError.

    They read a file of up to some hundred MiB: not on an event loop.
    """

    path: str
    short: MemoryMark
    """The mark below which the host's memory is not spare."""
    prices: UsageSettings

    @staticmethod
    def of(path: str, settings: DaemonSettings) -> ReadableHistory:
        """Return a file read with these settings."""
        return ReadableHistory(path, settings.arbiter.short, settings.usage)

    def span(self, from_s: int, to_s: int, vm: str | None = None) -> HistorySpan:
        """Return the host's records between two wall times, and those of one VM. Raises InputError."""
        return reader.read(self.path, from_s, to_s, vm)

    def frame(self, at_s: int) -> HistoryFrame:
        """Return all VMs at one of the moments of the host's records; none at another time."""
        return frames.frame(self.path, at_s)

    def usage(self, from_s: int, to_s: int) -> UsageReport:
        """Return what every VM used between two wall times. Raises InputError if the time is empty."""
        return read_usage(self.path, from_s, to_s, self.short, self.prices)
