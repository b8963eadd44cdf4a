"""When compaction is worth its CPU time, where, and what is remembered of it. Pure: no clock, no I/O.

Where the kernel can be made to report small pieces, compaction returns the same bytes only sooner; what
was reported it would make resident again (docs/deep-report.md). Elsewhere nothing but it returns them.
"""

from __future__ import annotations

from giveback_agent.policy.thresholds import LEAST_STEP_BYTES
from giveback_kernel import buddyinfo
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot, StepOutcome

MIB = 1 << 20
BACKOFF_FIRST_S = 60.0
BACKOFF_MAX_S = 3600.0
# Less than this for a second of CPU, and it costs more than it returns.
LEAST_BYTES_PER_CPU_S = 8 * MIB


class Compacting(Record):
    """Not before `after_s`, which `backoff_s` puts off; `before_bytes` were trapped when it was begun.

    What was trapped in the picture `known` needs none: a compaction left it, or it was reported as it is.
    """

    after_s: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    before_bytes: int = 0
    known: Snapshot | None = None

    @property
    def known_bytes(self) -> int:
        """Trapped bytes that need no compaction."""
        return 0 if self.known is None else self.known.trapped_bytes or 0


def is_worth_it(now: Snapshot, state: Compacting, much_bytes: int | None) -> bool:
    """Whether to compact. `much_bytes`: so much must be newly trapped; None where nothing else helps."""
    if now.monotonic_s < state.after_s:
        return False
    trapped = now.trapped_bytes or 0
    if much_bytes is None:
        return trapped >= LEAST_STEP_BYTES
    return trapped - state.known_bytes >= much_bytes


def worthy_nodes(now: Snapshot, state: Compacting) -> tuple[int, ...]:
    """The NUMA nodes that are worth it, where only some are; else none, which means all."""
    buddy, order = now.buddy, now.report_order
    if buddy is None or order is None:
        return ()
    known = None if state.known is None else state.known.buddy
    every = buddyinfo.nodes(buddy)

    def fresh_bytes(node: int) -> int:
        before = 0 if known is None else buddyinfo.trapped_bytes(known, order, node)
        return buddyinfo.trapped_bytes(buddy, order, node) - before

    worth_it = tuple([node for node in every if fresh_bytes(node) >= LEAST_STEP_BYTES])
    return worth_it if len(worth_it) < len(every) else ()


def learned(state: Compacting, outcome: StepOutcome, now: Snapshot) -> Compacting:
    """Learn from a finished one: what was not worth it is tried again later and later."""
    gained = state.before_bytes - (now.trapped_bytes or 0)
    worth_it = max(
        LEAST_STEP_BYTES // 2,
        state.before_bytes // 16,
        int(outcome.cpu_s * LEAST_BYTES_PER_CPU_S),
    )
    if outcome.ok:
        state = replace(state, known=now)
    if outcome.ok and gained >= worth_it:
        return replace(state, backoff_s=BACKOFF_FIRST_S, after_s=now.monotonic_s)
    return replace(
        state,
        after_s=now.monotonic_s + state.backoff_s,
        backoff_s=min(BACKOFF_MAX_S, state.backoff_s * 2),
    )
