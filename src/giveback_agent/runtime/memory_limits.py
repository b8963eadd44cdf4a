"""The memory limits of cgroups that steps change for a while: memory.low and memory.high, with their records.

A worker that was killed leaves them changed. Its parent, the next start and `repair` call `restore`, which is
cheap without a record.
"""

from __future__ import annotations

from giveback_agent.runtime.saved_value import SavedValues

LOW = SavedValues("memory-low", "memory.low")
HIGH = SavedValues("memory-high", "memory.high")


def restore(root: str) -> int | None:
    """Restore each limit on record; return the number of files, or None without a record.

    Raises KernelFileError if one cannot be restored; its record is kept, so try again.
    """
    # memory.high first: one that is too low slows its cgroup, a memory.low that is too high slows none.
    highs = HIGH.restore(root)
    lows = LOW.restore(root)
    return None if highs is None and lows is None else (highs or 0) + (lows or 0)
