"""How long the report order stays lowered: pure, on what was seen of the kernel's reports."""

from __future__ import annotations

from giveback_agent.policy import thresholds
from giveback_agent.policy.activity import idleness
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import GuestObservation

MIB = 1 << 20

# A pass starts 2 s after the nudge and takes 1/16 of each list every 2 s: 34 s, and a little.
DRAIN_S = 38.0
# A large guest on a slow host goes on for longer; one that frees memory all the time, for ever.
MOST_S = 120.0
# The kernel reports every 2 s: that it has no more is not seen sooner by looking more often.
LOOK_PERIOD_S = 1.5
# Two periods of the kernel's without a report: it has none left.
QUIET_S = 5.0
# Below this the kernel's own lists are as large as what would come back.
LEAST_TRAPPED_BYTES = 8 * MIB


class Hold(Record):
    """A lowered order: since when, how many reports the kernel had made at the last look that saw a
    new one (None where that is not seen), and when that was. Monotonic seconds.

    `used_bytes` is the least that programs and files had since it began; `stirred_s` is when the gate
    judged that work went on, None where the last judgement was that all is calm.
    """

    since_s: float
    reports: int | None
    reported_s: float
    used_bytes: int = 0
    stirred_s: float | None = None

    @classmethod
    def begin(cls, now_s: float, reports: int | None, used_bytes: int = 0) -> Hold:
        """The order is lowered at `now_s`."""
        return cls(now_s, reports, now_s, used_bytes)

    def look(self, now_s: float, reports: int | None) -> Hold | None:
        """The hold after a look, or None where it is over: the kernel fell silent, or had its time."""
        held_s = now_s - self.since_s
        if reports is not None and reports != self.reports and held_s < MOST_S:
            return replace(self, reports=reports, reported_s=now_s)
        quiet_s = None if reports is None else now_s - self.reported_s
        return None if drained(held_s, quiet_s) else self

    def may_wait(self, now_s: float, looked_s: float) -> bool:
        """Tell whether no look is due yet, the last having been at `looked_s`.

        Once the kernel has had its time any look without a new report ends the hold: then it must not
        keep step with the kernel.
        """
        return now_s - self.since_s < DRAIN_S and now_s - looked_s < LOOK_PERIOD_S

    def sees_work(self, calm: bool, judged_s: float, used_bytes: int, much_bytes: int) -> bool:
        """Tell whether the workload is back: not calm in two intervals running, or `much_bytes` more in use.

        While the order is lowered system time cannot be told from the kernel's reporting, and work that
        allocates is mostly that. Memory that is given up is no sign of work.
        """
        again = self.stirred_s is not None and judged_s > self.stirred_s
        return (again and not calm) or used_bytes - self.used_bytes >= much_bytes

    def noted(self, calm: bool, judged_s: float, used_bytes: int) -> Hold:
        """The hold with what a look has shown; an interval that began before it does not count."""
        stirred_s = self.stirred_s
        if calm:
            stirred_s = None
        elif judged_s > self.since_s and stirred_s is None:
            stirred_s = judged_s
        return replace(self, stirred_s=stirred_s, used_bytes=min(self.used_bytes, used_bytes))

    def go_on(self, seen: GuestObservation, despite_work: bool) -> tuple[Hold | None, str]:
        """Return the hold after an observation, or None and why it is over.

        To a workload that is back a lowered order costs something at every page that it frees, however
        little CPU it uses. `despite_work`: the host is in need, or somebody asked for this pass.
        """
        now, gate = seen.snapshot, seen.gate
        calm = despite_work or gate.level == idleness.IDLE or gate.calm_since_s is not None
        judged_s = gate.at_s or 0.0
        much_bytes = thresholds.much_bytes(now.meminfo)
        if not despite_work and self.sees_work(calm, judged_s, now.used_bytes, much_bytes):
            return None, idleness.GOT_BUSY
        # An order that could not be lowered is not waited for.
        still = self.look(now.monotonic_s, seen.reports) if seen.lowered else None
        if still is None:
            return None, "done"
        return still.noted(calm, judged_s, now.used_bytes), ""


def drained(held_s: float, quiet_s: float | None) -> bool:
    """Tell whether the kernel has reported all there is: it fell silent, or has had its time."""
    if held_s >= DRAIN_S:
        return True
    return quiet_s is not None and quiet_s >= QUIET_S and held_s >= QUIET_S
