"""How often a guest is looked at, and which look is worth a full picture. Pure.

A look (the CPU time, and in a calm guest one file of memory totals) is cheap. A full picture is dear.
"""

from __future__ import annotations

from giveback_agent.policy.activity import idleness
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.activity.idleness import GateState
    from giveback_kernel.meminfo import MemInfo

PASS_PERIOD_S = 1.0
WATCH_PERIOD_S = 2.0
QUIET_PERIOD_S = 10.0
# The order goes back when the kernel was seen to report, so often is that looked at.
REPORT_POLL_S = 0.4
# So many looks at a calm guest with nothing to gain, and they come less often.
QUIET_LOOKS = 5
# A full picture of a quiet guest is taken at every sixth look only, or where something went on in it.
QUIET_PICTURE_EVERY = 6
# So much work (`make clean`) may have trapped memory that the totals do not show.
WORTH_A_PICTURE_CPU_S = 1.0


class Pace(Record):
    """`looks` at a calm guest since something happened; `fell`: the last one saw work become less.

    `pictured_work_cpu_s`: the guest's own CPU seconds, as the gate counts them, at the last full picture.
    """

    looks: int = 0
    fell: bool = False
    pictured_work_cpu_s: float = 0.0


def after_look(pace: Pace, before: GateState, now: GateState) -> Pace:
    """Return the pace after the gate went from `before` to `now`."""
    fell = before.level == idleness.BUSY and now.level != idleness.BUSY
    # A burst within one long interval is never seen as busy, and is followed by quick looks, too.
    calm_again = before.calm_since_s is None and now.calm_since_s is not None
    return replace(pace, looks=0 if calm_again else pace.looks, fell=fell)


def period_s(pace: Pace, now: GateState) -> float:
    """Return the seconds until the next look at a guest in which nothing is being done."""
    if is_settling(now) or pace.fell:
        # Work has just ended, it seems: do not be late.
        return PASS_PERIOD_S
    return QUIET_PERIOD_S if pace.looks > QUIET_LOOKS else WATCH_PERIOD_S


def counted(pace: Pace) -> Pace:
    """Return the pace with one more look at a calm guest."""
    return replace(pace, looks=pace.looks + 1)


def held_up(pace: Pace, now: GateState) -> Pace:
    """Return the pace after a look at which nothing may be done: quick looks follow.

    Where a calm guest has used a little CPU all the time, and calm only begins anew, all is as it was.
    """
    return pace if is_settling(now) else replace(pace, looks=0)


def pictured(pace: Pace, now: GateState) -> Pace:
    """Return the pace after a full picture was taken."""
    return replace(pace, pictured_work_cpu_s=now.work_cpu_s)


def is_turn(pace: Pace, now: GateState) -> bool:
    """Tell whether a full picture is due whatever the totals say: the trapped memory is not in them."""
    worked = now.work_cpu_s - pace.pictured_work_cpu_s >= WORTH_A_PICTURE_CPU_S
    return worked or pace.looks <= QUIET_LOOKS or pace.looks % QUIET_PICTURE_EVERY == 0


def has_moved(before: MemInfo, now: MemInfo, least_bytes: int) -> bool:
    """Tell whether memory was taken, freed or read since `before` that a pass could be worth it for."""
    free_bytes = now.mem_free_bytes - before.mem_free_bytes
    cache_bytes = now.file_bytes - before.file_bytes
    return abs(free_bytes) >= least_bytes or abs(cache_bytes) >= least_bytes


def is_settling(now: GateState) -> bool:
    """Tell whether calm has begun and is not old enough: a picture now would be of no use."""
    return now.calm_since_s is not None and now.level != idleness.IDLE
