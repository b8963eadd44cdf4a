"""What a VMM does with CPU and swap, of one or two samples of its process. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback.accounting.usage import HostSnapshot
    from giveback.host.process_sample import ProcessSample

LEAST_SPAN_S = 0.1
"""Two samples nearer than this tell of no rate: CPU time comes in steps of 10 ms."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Whose a VMM is and what it does; None is unknown."""

    uid: int | None = None
    uptime_s: float | None = None
    cpu_percent: float | None = None
    """Of one CPU: between two samples; of one sample alone, since the VMM was started."""
    swap_bytes: int | None = None
    """What of its anonymous memory is swapped out, its guest's anonymous RAM included."""
    swap_in_bytes_per_s: float | None = None
    swap_out_bytes_per_s: float | None = None
    """By how much less or more is swapped out than at the sample before: what went both ways, or was
    freed while it was swapped out, is not told apart. None of one sample alone."""


UNKNOWN = Activity()


def activity_of(now: ProcessSample | None, before: ProcessSample | None = None) -> Activity:
    """Return what a process does; `before` is an older sample of it, and of no other process."""
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
    """Return what of a VMM is swapped out; None where nothing tells.

    Mappings tell of shared memory, too (`Swap` in smaps: fs/proc/task_mmu.c), where they may be read.
    """
    if host is None:
        return activity.swap_bytes
    return max(host.ram_swap_bytes + host.own_swap_bytes, activity.swap_bytes or 0)


def percent_of(part_bytes: int | None, whole_bytes: int | None) -> float | None:
    """Return a part in per cent; None where either is not known."""
    if part_bytes is None or not whole_bytes or whole_bytes < 0:
        return None
    return 100 * part_bytes / whole_bytes
