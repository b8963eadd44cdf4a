"""The limits of cgroups that are changed for a while: memory.low and memory.high, each with its record.

A worker that was killed leaves them changed: `restore` is what its parent, the next start and `repair`
do. It is cheap where nothing is on record.
"""

from __future__ import annotations

from giveback_agent.runtime.saved_value import SavedValues

LOW = SavedValues("memory-low", "memory.low")
HIGH = SavedValues("memory-high", "memory.high")


def restore(root: str) -> int | None:
    """Put each limit on record back; returns how many files, or None where there was no record.

    Raises KernelFileError where one could not be put back: its record is kept, so try again.
    """
    # A high that is too low slows its cgroup, a low that is too high slows nobody.
    highs = HIGH.restore(root)
    lows = LOW.restore(root)
    return None if highs is None and lows is None else (highs or 0) + (lows or 0)
