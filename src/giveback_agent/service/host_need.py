"""What the host has asked of this guest: an urgency on a lease, and perhaps an amount."""

from __future__ import annotations

from giveback_agent.policy.observation import URGENCY_ALONE, URGENCY_STARVING
from giveback_agent.runtime import run_dir
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.release.observe import Totals

# Told by a signal alone, with nothing written, the host starves for so long.
SIGNAL_LEASE_S = 60.0
# Who set it in the guest itself: `giveback-agent urgency`, or SIGUSR1 with nothing written.
BY_COMMAND, BY_SIGNAL = "command", "signal"


class HostNeed:
    """A host that falls silent needs nothing: `lease` is the urgency, and until when it holds.

    `by` names who set it: a word of the host's, `command` or `signal` in the guest, "" where nobody has.
    `kept_cache_bytes` stays, as the host named an amount that is less than the cache; 0: it named none.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.lease: tuple[int, float] | None = None
        self.by = ""
        self.kept_cache_bytes = 0

    def urgency(self, now_s: float) -> int:
        """Return the urgency that holds now."""
        if self.lease is not None and now_s < self.lease[1]:
            return self.lease[0]
        self.lease, self.by, self.kept_cache_bytes = None, "", 0
        return URGENCY_ALONE

    def fields(self, now_s: float) -> dict[str, object]:
        """Return what `status` shows: the urgency, who set it, and until when (monotonic seconds)."""
        urgency = self.urgency(now_s)
        until_s = None if self.lease is None else self.lease[1]
        return {"urgency": urgency, "urgency_by": self.by, "urgency_until_s": until_s}

    def read_written(self, now_s: float) -> None:
        """Take what was written into the run directory, as SIGUSR1 asks for."""
        self.kept_cache_bytes = 0
        starving = (URGENCY_STARVING, now_s + SIGNAL_LEASE_S)
        written = run_dir.read_urgency(self._root, now_s)
        self.lease, self.by = (written, BY_COMMAND) if written else (starving, BY_SIGNAL)

    def hear(
        self, urgency: int, until_s: float, goal_bytes: int | None, totals: Totals, by: str = "host"
    ) -> None:
        """Take what the host said. Of the cache as it is now, all but `goal_bytes` is kept for the guest."""
        self.lease, self.by, self.kept_cache_bytes = (urgency, until_s), by, 0
        if goal_bytes is None:
            return
        totals.forget()
        try:
            cache_bytes = totals.meminfo().file_bytes
        except KernelFileError:
            return
        self.kept_cache_bytes = max(0, cache_bytes - goal_bytes)
