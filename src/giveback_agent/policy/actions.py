"""What a policy may ask for, and what it is told came of it. Shared by all modes; no I/O."""

from __future__ import annotations

from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.idleness import GateState
    from giveback_agent.policy.snapshot import Snapshot
    from giveback_kernel.meminfo import MemInfo

SYNC = "sync"
SLAB = "slab"
COLD = "reclaim cold"
RECLAIM = "reclaim"
DROP = "drop"
COMPACT = "compact"
DRAIN = "drain"
LOWER = "lower"
NUDGE = "nudge"
RESTORE = "restore"
ABANDON = "abandon"
PASS_BEGIN = "pass begin"
PASS_END = "pass end"

# These run in a worker, one at a time; the others are done at once.
IN_WORKER = (SYNC, SLAB, COLD, RECLAIM, DROP, COMPACT)

URGENCY_CALM, URGENCY_ALONE, URGENCY_TIGHT, URGENCY_STARVING = 0, 1, 2, 3


# What a COLD action is to do.
TAUGHT, UNTAUGHT, REOPEN = 0, 1, 2
# More than this part of the cache dirty, and taking it waits: dirty pages would only be moved among
# those that are kept.
DIRTY_DIVISOR = 8


class Action(Record):
    """One thing to do: `amount_bytes` for COLD and RECLAIM, `order` for LOWER, `what` for DROP,
    for RECLAIM whether the whole cache may be dropped where the kernel can only swap, `nodes` for
    COMPACT (none: all).

    COLD takes what was not read again, as far as the kernel can tell (`what`: TAUGHT, or UNTAUGHT
    where that may not be told, or REOPEN, see cold_cache.py); RECLAIM takes what the kernel gives;
    DRAIN frees what lingers on per-CPU lists. `why` is for people.
    """

    kind: str
    why: str = ""
    amount_bytes: int = 0
    order: int | None = None
    what: int = 0
    nodes: tuple[int, ...] = ()


class Outcome(Record):
    """How an action that ran in a worker ended: `ok`, or failed, or given up by us."""

    kind: str
    ok: bool
    abandoned: bool = False
    took_s: float = 0.0
    cpu_s: float = 0.0


class Capabilities(Record):
    """What this kernel lets this process do; probed once at the start, never guessed by version."""

    reporting: bool | None
    order: int | None
    order_settable: bool
    reclaim: bool
    drop_caches: bool
    compaction: bool
    cold_method: str = "none"
    drain: bool = False


class Observation(Record):
    """All that a decision rests on: the guest, how busy it is, what of ours runs, what came of the last.

    `reports` counts the reports that the kernel has made to the host, where that is seen.
    """

    snapshot: Snapshot
    gate: GateState
    urgency: int = URGENCY_ALONE
    running: str | None = None
    outcome: Outcome | None = None
    lowered: bool = False
    reports: int | None = None


def is_largely_dirty(memory: MemInfo, cache_bytes: int) -> bool:
    """Whether much of so much cache may be dirty: all that is dirty may be among it."""
    return (memory.dirty_bytes + memory.writeback_bytes) * DIRTY_DIVISOR > cache_bytes
