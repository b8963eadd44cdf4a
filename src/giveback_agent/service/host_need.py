"""The host's request to this guest: an urgency with a lease, and an amount if it sent one."""

from __future__ import annotations

from giveback_agent.policy.observation import URGENCY_ALONE, URGENCY_STARVING
from giveback_agent.runtime import run_dir
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.host_link.link import UrgencyMessage
    from giveback_agent.release.observe import Totals

# SIGUSR1 without a written urgency means urgency 3 for this long.
SIGNAL_LEASE_S = 60.0
# Set in the guest itself: by `giveback-agent urgency`, or by SIGUSR1 without a written urgency.
BY_COMMAND, BY_SIGNAL = "command", "signal"


class HostNeed:
    """The host's need. `lease` is the urgency and the time until which it holds (monotonic seconds).

    Without a new message from the host the lease ends, and the urgency is 1 again. `by` names who set
    it: the host's own word for it, `command` or `signal` in the guest, "" without a lease.
    `kept_cache_bytes` of cache stay if the host asked for an amount smaller than the cache; 0: it did not.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.lease: tuple[int, float] | None = None
        self.by = ""
        self.kept_cache_bytes = 0
        self._goal_number: int | None = None

    def urgency(self, now_s: float) -> int:
        """Return the urgency that holds now."""
        if self.lease is not None and now_s < self.lease[1]:
            return self.lease[0]
        self.lease, self.by, self.kept_cache_bytes, self._goal_number = None, "", 0, None
        return URGENCY_ALONE

    def fields(self, now_s: float) -> dict[str, object]:
        """Return what `status` shows: the urgency, who set it, and until when (monotonic seconds)."""
        urgency = self.urgency(now_s)
        until_s = None if self.lease is None else self.lease[1]
        return {"urgency": urgency, "urgency_by": self.by, "urgency_until_s": until_s}

    def read_written(self, now_s: float) -> None:
        """Read the urgency from the run directory, after SIGUSR1."""
        self.kept_cache_bytes, self._goal_number = 0, None
        starving = (URGENCY_STARVING, now_s + SIGNAL_LEASE_S)
        written = run_dir.read_urgency(self._root, now_s)
        self.lease, self.by = (written, BY_COMMAND) if written else (starving, BY_SIGNAL)

    def hear(self, message: UrgencyMessage, until_s: float, totals: Totals) -> None:
        """Set the urgency that the host sent. Of the present cache, all above its goal is kept.

        A goal with the number of the one before is the same goal: what was taken since counts for it.
        """
        is_again = message.goal_number is not None and message.goal_number == self._goal_number
        kept_before_bytes = self.kept_cache_bytes if is_again else 0
        self.lease, self.by = (message.urgency, until_s), message.by
        self.kept_cache_bytes, self._goal_number = kept_before_bytes, message.goal_number
        if message.goal_bytes is None:
            return
        totals.forget()
        try:
            cache_bytes = totals.meminfo().file_bytes
        except KernelFileError:
            return
        self.kept_cache_bytes = max(kept_before_bytes, cache_bytes - message.goal_bytes)
