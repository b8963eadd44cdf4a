"""One VM's memory on the host, sampled often at little cost: the record, and the reader of its sums.

Only the methods here assign the fields: tests/unit/manager/test_state_owners.py.
"""

from __future__ import annotations

import os
import re
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.activity import UNKNOWN, Activity, activity_of
from giveback.manager.decide import schedule
from giveback.manager.decide.resident_counts import (
    Counts,
    Mappings,
    carried,
    held_bytes,
    must_read_mappings,
)
from giveback_kernel.files import under

if TYPE_CHECKING:
    from giveback.accounting.usage import HostSnapshot
    from giveback.host.process_sample import ProcessSample
    from giveback.vmm.mapping import BoundBlock

_STATUS_LIMIT_BYTES = 8 << 10
_HISTORY = 64
"""The samples of one minute, if they are taken every second."""
_WATCHED_S = 10.0
"""A sample at most this far from a time stands for that time."""
_PROCESS_AGAIN_S = 1.0
"""Seconds between two samples of its CPU time: rates over shorter spans are noise."""
_LINE = re.compile(rb"^(VmHWM|VmRSS|VmPTE|VmSwap|HugetlbPages):[ \t]+(\d{1,15}) kB$", re.MULTILINE)


class HostSample:
    """The last sums of a VM's process, its last mappings, and the usage computed from both."""

    __slots__ = (
        "activity",
        "bound",
        "counts",
        "due_s",
        "history",
        "mappings",
        "process",
        "process_at_s",
        "reading",
        "sampled_at_s",
        "unreadable",
        "unreadable_until_s",
        "usage",
    )

    def __init__(self, now_s: float) -> None:
        self.counts: Counts | None = None
        self.mappings: Mappings | None = None
        self.usage: HostSnapshot | None = None
        """The mappings, updated to the present sums; None until the mappings were read."""
        self.bound: tuple[BoundBlock, ...] = ()
        """The mapping of each block of RAM."""
        self.sampled_at_s: float | None = None
        self.history: deque[tuple[float, int]] = deque(maxlen=_HISTORY)
        """Times of samples, each with the resident bytes of the process."""
        self.due_s = now_s
        self.process: ProcessSample | None = None
        self.process_at_s: float | None = None
        self.activity: Activity = UNKNOWN
        """The VMM's CPU and swap rates, from its last two samples."""
        self.reading = False
        self.unreadable = ""
        """Why the mappings cannot be read; "" if they can."""
        self.unreadable_until_s = 0.0

    def sample_at(self, at_s: float) -> None:
        """Sample at this time."""
        self.due_s = at_s

    def hurry(self, at_s: float) -> None:
        """Sample at this time, unless it is due sooner."""
        self.due_s = min(self.due_s, at_s)

    def take(self, counts: Counts, now_s: float, ram_bytes: int) -> bool:
        """Store the sums of a sample; return whether the usage changed."""
        self.sampled_at_s = now_s
        self.history.append((now_s, counts.resident_bytes))
        is_new = counts != self.counts
        self.counts = counts
        if self.mappings is None or not is_new:
            return False
        self.usage = carried(self.mappings, counts, ram_bytes)
        return True

    def moved_since(self, at_s: float) -> int | None:
        """Return the change of resident memory since then, without sign; None if no sample is near."""
        if self.counts is None:
            return None
        near = min(self.history, key=lambda sample: abs(sample[0] - at_s), default=None)
        if near is None or abs(near[0] - at_s) > _WATCHED_S:
            return None
        since = [held for sampled_s, held in self.history if sampled_s >= near[0]]
        return max(abs(self.counts.resident_bytes - held) for held in since)

    def recount(self, counts: Counts, ram_bytes: int) -> bool:
        """Store sums that were read between two samples; return whether they differ."""
        if counts == self.counts:
            return False
        self.counts = counts
        if self.mappings is not None:
            self.usage = carried(self.mappings, counts, ram_bytes)
        return True

    def held_bytes(self, counts: Counts, ram_bytes: int) -> int:
        """Return the bytes that the host would have again without the process, by these sums."""
        return held_bytes(self.mappings, counts, ram_bytes)

    def needs_process(self, now_s: float) -> bool:
        """Return whether to sample the process now: the last sample is old enough for a rate."""
        return self.process_at_s is None or now_s >= self.process_at_s + _PROCESS_AGAIN_S

    def activity_at(self, now_s: float) -> Activity:
        """Return the VMM's activity, with its present uptime."""
        uptime_s = self.activity.uptime_s
        if uptime_s is None or self.process_at_s is None:
            return self.activity
        return replace(self.activity, uptime_s=uptime_s + max(0.0, now_s - self.process_at_s))

    @property
    def is_stopped(self) -> bool:
        """Whether the VMM's process is stopped (SIGSTOP), so that nothing in its VM runs."""
        return self.process is not None and self.process.is_stopped

    def take_process(self, sample: ProcessSample | None, now_s: float) -> bool:
        """Store a sample of the VMM's process, None if it cannot be read.

        Return whether the process was stopped or continued since the last sample.
        """
        was_stopped = self.is_stopped
        self.process_at_s = now_s
        self.activity = activity_of(sample, self.process)
        self.process = sample
        return self.is_stopped != was_stopped

    def needs_mappings(self, counts: Counts, now_s: float) -> bool:
        """Return whether to read the mappings now, because the sums changed much or are old."""
        is_due = must_read_mappings(self.mappings, counts, now_s)
        return is_due and not self.reading and now_s >= self.unreadable_until_s

    def begin_reading(self) -> None:
        """Record that the mappings are being read."""
        self.reading = True

    def end_reading(self) -> None:
        """Record that the mappings are no longer being read, with or without success."""
        self.reading = False

    def take_mappings(
        self, mappings: Mappings, bound: tuple[BoundBlock, ...], ram_bytes: int
    ) -> None:
        """Store mappings that were read; the sums may be newer."""
        self.unreadable, self.bound, self.mappings = "", bound, mappings
        self.usage = carried(mappings, self.counts or mappings.counts, ram_bytes)

    def refuse_mappings(self, why: str, now_s: float) -> None:
        """Store why the mappings could not be read; the next attempt is after a minute."""
        self.unreadable = why
        self.unreadable_until_s = now_s + schedule.UNREADABLE_AGAIN_S


def parse_counts(text: bytes) -> Counts | None:
    """Parse `/proc/PID/status`; None without VmRSS: a process that has ended, or a kernel thread."""
    found = {name: int(kib) << 10 for name, kib in _LINE.findall(text)}
    if b"VmRSS" not in found:
        return None
    return Counts(
        rss_bytes=found[b"VmRSS"],
        swap_bytes=found.get(b"VmSwap", 0),
        hugetlb_bytes=found.get(b"HugetlbPages", 0),
        page_tables_bytes=found.get(b"VmPTE", 0),
        peak_bytes=found.get(b"VmHWM", 0),
    )


def read_counts(root: str, pid: int) -> Counts | None:
    """Read the sums of a process; None if it has ended."""
    try:
        fd = os.open(under(root, f"/proc/{pid}/status"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return parse_counts(os.read(fd, _STATUS_LIMIT_BYTES))
    except OSError:
        return None
    finally:
        os.close(fd)
