"""How often a guest is sampled, and which poll is worth a full snapshot. Pure.

A sample (CPU times, and in an idle guest one file of memory totals) is cheap. A full snapshot is expensive.
"""

from __future__ import annotations

from giveback_agent.policy.activity import idleness
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.activity.idleness import Activity
    from giveback_kernel.meminfo import MemInfo

PASS_PERIOD_S = 1.0
WATCH_PERIOD_S = 2.0
QUIET_PERIOD_S = 10.0
# In a short report: the order is restored once the kernel has reported, which is polled this often.
REPORT_POLL_S = 0.4
# After this many polls of an idle guest with nothing to return, polls come less often.
QUIET_POLLS = 5
# A quiet guest gets a full snapshot at every sixth poll, or if it was active.
QUIET_SNAPSHOT_EVERY = 6
# A workload of this many CPU seconds (`make clean`) may have trapped memory that the totals do not show.
WORTH_A_SNAPSHOT_CPU_S = 1.0


class Pace(Record):
    """The pace of polling: `polls` counts the polls of an idle guest since something happened.

    `fell`: at the last poll the guest had stopped being busy. `snapshot_work_cpu_s`: CPU seconds of the
    workload (Activity.work_cpu_s) at the last full snapshot.
    """

    polls: int = 0
    fell: bool = False
    snapshot_work_cpu_s: float = 0.0


def after_poll(pace: Pace, before: Activity, now: Activity) -> Pace:
    """Return the pace after a poll that changed the activity from `before` to `now`."""
    fell = before.level == idleness.BUSY and now.level != idleness.BUSY
    # A burst within one long interval is never seen as busy; quick polls must follow it as well.
    idle_again = before.idle_since_s is None and now.idle_since_s is not None
    return replace(pace, polls=0 if idle_again else pace.polls, fell=fell)


def period_s(pace: Pace, now: Activity) -> float:
    """Return the seconds until the next poll of a guest in which no step runs."""
    if is_settling(now) or pace.fell:
        # The workload seems to have just ended: do not be late.
        return PASS_PERIOD_S
    return QUIET_PERIOD_S if pace.polls > QUIET_POLLS else WATCH_PERIOD_S


def counted(pace: Pace) -> Pace:
    """Return the pace after one more poll of an idle guest."""
    return replace(pace, polls=pace.polls + 1)


def held_up(pace: Pace, now: Activity) -> Pace:
    """Return the pace after a poll at which no step may begin: quick polls follow.

    An idle guest that always uses a little CPU may only settle again; that does not change the pace.
    """
    return pace if is_settling(now) else replace(pace, polls=0)


def after_snapshot(pace: Pace, now: Activity) -> Pace:
    """Return the pace after a full snapshot was taken."""
    return replace(pace, snapshot_work_cpu_s=now.work_cpu_s)


def is_turn(pace: Pace, now: Activity) -> bool:
    """Tell whether a full snapshot is due even if the totals are unchanged: they lack trapped memory."""
    worked = now.work_cpu_s - pace.snapshot_work_cpu_s >= WORTH_A_SNAPSHOT_CPU_S
    return worked or pace.polls <= QUIET_POLLS or pace.polls % QUIET_SNAPSHOT_EVERY == 0


def has_moved(before: MemInfo, now: MemInfo, least_bytes: int) -> bool:
    """Tell whether free memory or cache changed by `least_bytes` or more since `before`."""
    free_bytes = now.mem_free_bytes - before.mem_free_bytes
    cache_bytes = now.file_bytes - before.file_bytes
    return abs(free_bytes) >= least_bytes or abs(cache_bytes) >= least_bytes


def is_settling(now: Activity) -> bool:
    """Tell whether the guest is below the idle threshold, but not yet for long enough to act."""
    return now.idle_since_s is not None and now.level != idleness.IDLE
