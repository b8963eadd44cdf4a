"""How long the report order stays lowered, by the kernel's count of reports. Pure."""

from __future__ import annotations

from giveback_agent.policy import thresholds
from giveback_agent.policy.activity import idleness
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import GuestObservation

MIB = 1 << 20

# A cycle starts 2 s after the trigger and takes 1/16 of each free list every 2 s: 34 s, plus a margin.
DRAIN_S = 38.0
# A large guest on a slow host takes longer. A guest that frees memory all the time would never end.
MOST_S = 120.0
# The kernel reports every 2 s: polling more often does not show its end sooner.
POLL_PERIOD_S = 1.5
# Two of the kernel's periods without a report: nothing is left to report.
QUIET_S = 5.0
# With less than this trapped, the kernel's own lists are as large as what would come back.
LEAST_TRAPPED_BYTES = 8 * MIB


class Hold(Record):
    """The time in which the report order is lowered. All times are monotonic seconds.

    The order is lowered since `since_s`. `reports` is the kernel's count of reports (None if it cannot be
    seen), last increased at `reported_s`. `used_bytes` is the least that programs and files occupied
    since. `stirred_s` is when the idleness detector first saw activity; None if the last interval was
    idle.
    """

    since_s: float
    reports: int | None
    reported_s: float
    used_bytes: int = 0
    stirred_s: float | None = None

    @classmethod
    def begin(cls, now_s: float, reports: int | None, used_bytes: int = 0) -> Hold:
        """Return the hold of an order that is lowered at `now_s`."""
        return cls(now_s, reports, now_s, used_bytes)

    def poll(self, now_s: float, reports: int | None) -> Hold | None:
        """Return the hold after a poll, or None if it is over: the kernel is done, or its time is up."""
        held_s = now_s - self.since_s
        if reports is not None and reports != self.reports and held_s < MOST_S:
            return replace(self, reports=reports, reported_s=now_s)
        quiet_s = None if reports is None else now_s - self.reported_s
        return None if drained(held_s, quiet_s) else self

    def may_wait(self, now_s: float, polled_s: float) -> bool:
        """Tell whether no poll is due yet. The last was at `polled_s`.

        After DRAIN_S, a poll without a new report ends the hold. From then on polls must not be at the
        kernel's own pace, so every tick polls.
        """
        return now_s - self.since_s < DRAIN_S and now_s - polled_s < POLL_PERIOD_S

    def sees_work(self, idle: bool, judged_s: float, used_bytes: int, much_bytes: int) -> bool:
        """Tell whether the workload is back: two busy intervals in a row, or `much_bytes` more in use.

        While the order is lowered, the kernel's reporting is system time like that of the workload, and a
        workload that allocates uses mostly system time. So growth of the used memory counts as well.
        A decrease of it is not a sign of work.
        """
        again = self.stirred_s is not None and judged_s > self.stirred_s
        return (again and not idle) or used_bytes - self.used_bytes >= much_bytes

    def noted(self, idle: bool, judged_s: float, used_bytes: int) -> Hold:
        """Return the hold after a poll. An interval that began before the hold does not count."""
        stirred_s = self.stirred_s
        if idle:
            stirred_s = None
        elif judged_s > self.since_s and stirred_s is None:
            stirred_s = judged_s
        return replace(self, stirred_s=stirred_s, used_bytes=min(self.used_bytes, used_bytes))

    def go_on(self, seen: GuestObservation, despite_work: bool) -> tuple[Hold | None, str]:
        """Return the hold after an observation, or None and the reason why it is over.

        A lowered order costs a returning workload CPU time at every page that it frees, however little
        CPU it uses. `despite_work`: hold on, as the host needs memory or a user asked for this pass.
        """
        now, activity = seen.snapshot, seen.activity
        idle = despite_work or activity.level == idleness.IDLE or activity.idle_since_s is not None
        judged_s = activity.at_s or 0.0
        much_bytes = thresholds.much_bytes(now.meminfo)
        if not despite_work and self.sees_work(idle, judged_s, now.used_bytes, much_bytes):
            return None, idleness.GOT_BUSY
        # If the order could not be lowered there is nothing to wait for.
        still = self.poll(now.monotonic_s, seen.reports) if seen.lowered else None
        if still is None:
            return None, "done"
        return still.noted(idle, judged_s, now.used_bytes), ""


def drained(held_s: float, quiet_s: float | None) -> bool:
    """Tell whether the kernel has reported everything: no report for QUIET_S, or DRAIN_S are over."""
    if held_s >= DRAIN_S:
        return True
    return quiet_s is not None and quiet_s >= QUIET_S and held_s >= QUIET_S
