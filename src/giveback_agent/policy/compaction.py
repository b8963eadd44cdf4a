"""When and on which nodes compaction is worth its CPU time, and what was learned of it. Pure.

If the kernel can report small blocks, compaction returns the same bytes, only sooner. It makes memory that
was reported before resident again (docs/deep-report.md). If the kernel cannot, only compaction returns them.
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
# With fewer bytes per CPU second, compaction costs more than it returns.
LEAST_BYTES_PER_CPU_S = 8 * MIB


class Compacting(Record):
    """The state of compaction: the next may begin at `after_s` (monotonic seconds).

    `backoff_s` is the wait after the next failure. `before_bytes` were trapped when the last one began.
    Memory that was trapped in the snapshot `known` needs no compaction: the last compaction left it, or
    it was reported in small blocks.
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
    """Tell whether to compact: at least `much_bytes` must be newly trapped.

    `much_bytes` None: only compaction can return trapped memory, so that LEAST_STEP_BYTES are enough.
    """
    if now.monotonic_s < state.after_s:
        return False
    trapped = now.trapped_bytes or 0
    if much_bytes is None:
        return trapped >= LEAST_STEP_BYTES
    return trapped - state.known_bytes >= much_bytes


def worthy_nodes(now: Snapshot, state: Compacting) -> tuple[int, ...]:
    """Return the NUMA nodes that are worth it if only some are; else an empty tuple, which means all."""
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
    """Return the state after a compaction; each one that was not worth it doubles the wait."""
    freed = state.before_bytes - (now.trapped_bytes or 0)
    worth_it = max(
        LEAST_STEP_BYTES // 2,
        state.before_bytes // 16,
        int(outcome.cpu_s * LEAST_BYTES_PER_CPU_S),
    )
    if outcome.ok:
        state = replace(state, known=now)
    if outcome.ok and freed >= worth_it:
        return replace(state, backoff_s=BACKOFF_FIRST_S, after_s=now.monotonic_s)
    return replace(
        state,
        after_s=now.monotonic_s + state.backoff_s,
        backoff_s=min(BACKOFF_MAX_S, state.backoff_s * 2),
    )
