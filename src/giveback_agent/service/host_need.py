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


class HostNeed:
    """A host that falls silent needs nothing: `lease` is the urgency, and until when it holds.

    `kept_cache_bytes` stays, as the host named an amount that is less than the cache; 0: it named none.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.lease: tuple[int, float] | None = None
        self.kept_cache_bytes = 0

    def urgency(self, now_s: float) -> int:
        """Return the urgency that holds now."""
        if self.lease is not None and now_s < self.lease[1]:
            return self.lease[0]
        self.lease, self.kept_cache_bytes = None, 0
        return URGENCY_ALONE

    def read_written(self, now_s: float) -> None:
        """Take what was written into the run directory, as SIGUSR1 asks for."""
        self.kept_cache_bytes = 0
        starving = (URGENCY_STARVING, now_s + SIGNAL_LEASE_S)
        self.lease = run_dir.read_urgency(self._root, now_s) or starving

    def hear(self, urgency: int, until_s: float, goal_bytes: int | None, totals: Totals) -> None:
        """Take what the host said. Of the cache as it is now, all but `goal_bytes` is kept for the guest."""
        self.lease, self.kept_cache_bytes = (urgency, until_s), 0
        if goal_bytes is None:
            return
        totals.forget()
        try:
            cache_bytes = totals.meminfo().file_bytes
        except KernelFileError:
            return
        self.kept_cache_bytes = max(0, cache_bytes - goal_bytes)
