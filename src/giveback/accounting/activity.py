"""CPU and swap use of a VMM, from one or two samples of its process. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback.accounting.usage import HostSnapshot
    from giveback.host.process_sample import ProcessSample

LEAST_SPAN_S = 0.1
"""Two samples closer than this give no rate: CPU time is counted in steps of 10 ms."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Owner, CPU and swap use of a VMM's process; None is unknown."""

    uid: int | None = None
    uptime_s: float | None = None
    cpu_percent: float | None = None
    """Per cent of one CPU: between two samples, or since the VMM's start if there is one sample."""
    swap_bytes: int | None = None
    """Anonymous memory of the process in swap, including the guest's anonymous RAM."""
    swap_in_bytes_per_s: float | None = None
    swap_out_bytes_per_s: float | None = None
    """The decrease and the increase of `swap_bytes` since the sample before, per second.

    Traffic in both directions cancels out, and freeing swapped memory looks like swapping in. None if
    there is one sample only."""


UNKNOWN = Activity()


def activity_of(now: ProcessSample | None, before: ProcessSample | None = None) -> Activity:
    """Return the activity of a process; `before` is an older sample of the same process.

    A `before` with another start time belongs to an earlier process of this PID and is ignored.
    """
    if now is None:
        return UNKNOWN
    uptime_s = max(0.0, now.at_s - now.started_s)
    span_s, cpu_s = uptime_s, now.cpu_s
    swapped_in = swapped_out = None
    if before is not None and before.started_s == now.started_s:
        between_s = now.at_s - before.at_s
        if between_s >= LEAST_SPAN_S:
            span_s, cpu_s = between_s, now.cpu_s - before.cpu_s
            if now.swap_bytes is not None and before.swap_bytes is not None:
                more_bytes = now.swap_bytes - before.swap_bytes
                swapped_in, swapped_out = (
                    max(0, side) / between_s for side in (-more_bytes, more_bytes)
                )
    return Activity(
        uid=now.uid,
        uptime_s=uptime_s,
        cpu_percent=max(0.0, 100 * cpu_s / span_s) if span_s >= LEAST_SPAN_S else None,
        swap_bytes=now.swap_bytes,
        swap_in_bytes_per_s=swapped_in,
        swap_out_bytes_per_s=swapped_out,
    )


def swapped_of(host: HostSnapshot | None, activity: Activity) -> int | None:
    """Return the bytes of a VMM in swap; None if unknown.

    The mappings, if they can be read, also count shared memory (`Swap` in smaps: fs/proc/task_mmu.c).
    """
    if host is None:
        return activity.swap_bytes
    return max(host.ram_swap_bytes + host.own_swap_bytes, activity.swap_bytes or 0)


def percent_of(part_bytes: int | None, whole_bytes: int | None) -> float | None:
    """Return the part in per cent of the whole; None if either is unknown."""
    if part_bytes is None or not whole_bytes or whole_bytes < 0:
        return None
    return 100 * part_bytes / whole_bytes
