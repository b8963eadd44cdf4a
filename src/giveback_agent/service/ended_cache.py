"""How much cache ended cgroups have left: measured once after an end, and not pursued for ever."""

from __future__ import annotations

import time

from giveback_agent.policy import thresholds
from giveback_agent.policy.observation import LISTS
from giveback_agent.release import steps
from giveback_agent.service.end_watch import SETTLE_S, EndWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.cache_goal import EndedRegret

# A service that is started again and again ends as often: it is looked after no more often.
PERIOD_S = 10.0
# At most 1 % of a CPU for measuring.
COST_TIMES = 100
WANTED_S = 120.0


class EndedCache:
    """`watch` notices the ends; `left_bytes` is what was last measured, 0 once a step takes it."""

    def __init__(self, root: str) -> None:
        self.watch = EndWatch(root)
        self.left_bytes = 0
        self._root = root
        self._next_s = self._seen_s = 0.0

    def begin(self, cold_method: str) -> None:
        """Have the root's own cache remembered before anything ends: by sums it cannot be told later."""
        if cold_method == LISTS:
            steps.ended_bytes(self._root, cold_method)

    def measure(self, now_s: float, may_measure: bool, cold_method: str) -> bool:
        """Measure what cgroups that have ended left, if any has; returns whether that is worth a step.

        `cold_method`: how this kernel's cold cache is taken.
        """
        self.watch.poll()
        self.watch.ask_for_signals(now_s)
        if not self.watch.rose or not may_measure:
            return False
        if not self._seen_s:
            self._seen_s = now_s
        if now_s < max(self._next_s, self._seen_s + SETTLE_S):
            return False
        self.watch.rose, self._seen_s = False, 0.0
        began_s = time.monotonic()
        self.left_bytes = steps.ended_bytes(self._root, cold_method)
        # With 10,000 cgroups this takes a second: rarer then.
        took_s = time.monotonic() - began_s
        self._next_s = now_s + max(PERIOD_S, COST_TIMES * took_s)
        return self.left_bytes >= thresholds.LEAST_STEP_BYTES

    def is_wanted(self, now_s: float, regret: EndedRegret) -> bool:
        """Tell whether a step could begin for what was measured: soon after the end, or a regret's wait."""
        is_new = now_s < max(self._next_s, regret.until_s) + WANTED_S
        return is_new and regret.may_take(now_s) and self.left_bytes >= thresholds.LEAST_STEP_BYTES
