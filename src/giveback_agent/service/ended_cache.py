"""Measure, once after cgroups have ended, how much cache they left; forget it after a while."""

from __future__ import annotations

import time

from giveback_agent.policy import thresholds
from giveback_agent.policy.observation import LISTS
from giveback_agent.release import steps
from giveback_agent.service.end_watch import SETTLE_S, EndWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.cache_goal import EndedRegret

# A service that restarts all the time causes no more frequent measurements than this.
PERIOD_S = 10.0
# After a step for it, what is left is measured again, each time twice as long after: a step may take nothing,
# where it could not protect the cache of live cgroups.
AGAIN_S = 20.0
AGAIN_TIMES = 4
# At most 1 % of a CPU for measuring.
COST_TIMES = 100
WANTED_S = 120.0


class EndedCache:
    """The cache of ended cgroups: `left_bytes` at the last measurement, 0 after a step for it.

    `watch` notices that cgroups have ended.
    """

    def __init__(self, root: str) -> None:
        self.watch = EndWatch(root)
        self.left_bytes = 0
        self._root = root
        self._next_s = self._seen_s = 0.0
        self._again = 0
        self._again_s: float | None = None

    def begin(self, cold_method: str) -> None:
        """Record the root's own cache before any cgroup ends: later it cannot be separated from theirs."""
        if cold_method == LISTS:
            steps.ended_bytes(self._root, cold_method)

    def measure(self, now_s: float, may_measure: bool, cold_method: str) -> bool:
        """Measure the cache of ended cgroups if some have ended; return whether it is worth a step.

        `cold_method`: from cold_cache.probe.
        """
        self.watch.poll()
        self.watch.ask_for_signals(now_s)
        if self.watch.rose:
            self._again, self._again_s = 0, None
        elif self._again_s is None or now_s < self._again_s:
            return False
        if not may_measure:
            return False
        if not self._seen_s:
            self._seen_s = now_s
        if now_s < max(self._next_s, self._seen_s + SETTLE_S):
            return False
        self.watch.rose, self._seen_s, self._again_s = False, 0.0, None
        began_s = time.monotonic()
        self.left_bytes = steps.ended_bytes(self._root, cold_method)
        # With 10,000 cgroups this takes a second: then it is measured less often.
        took_s = time.monotonic() - began_s
        self._next_s = now_s + max(PERIOD_S, COST_TIMES * took_s)
        return self.left_bytes >= thresholds.LEAST_STEP_BYTES

    def step_begins(self, now_s: float) -> None:
        """Forget what was left, as a step for it begins; measure it again later, some times."""
        self.left_bytes = 0
        self._again_s = None
        if self._again < AGAIN_TIMES:
            self._again_s = now_s + AGAIN_S * 2**self._again
            self._again += 1

    def is_wanted(self, now_s: float, regret: EndedRegret) -> bool:
        """Tell whether a step may begin for the measured cache: for WANTED_S after it may be reclaimed."""
        is_new = now_s < max(self._next_s, regret.until_s) + WANTED_S
        return is_new and regret.may_take(now_s) and self.left_bytes >= thresholds.LEAST_STEP_BYTES
