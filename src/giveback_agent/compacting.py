"""When compaction is worth its CPU time, where, and what is remembered of it. Pure: no clock, no I/O.

Where the kernel can be made to report small pieces, compaction returns the same bytes only sooner; what
was reported it would make resident again (docs/deep-report.md). Elsewhere nothing but it returns them.
"""

from __future__ import annotations

from giveback_agent.kernel import buddyinfo
from giveback_agent.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.actions import Outcome
    from giveback_agent.kernel.buddyinfo import BuddyInfo
    from giveback_agent.snapshot import Snapshot

MIB = 1 << 20
# Below this it costs more than it returns.
LEAST_GAIN_BYTES = 16 * MIB
BACKOFF_FIRST_S = 60.0
BACKOFF_MAX_S = 3600.0
# Less than this for a second of CPU, and it costs more than it returns.
LEAST_BYTES_PER_CPU_S = 8 * MIB


class Compacting(Record):
    """Not before `after_s`, which `backoff_s` puts off; `before_bytes` were trapped when it was begun.

    `known_bytes` are trapped and need none: a compaction left them, or they were reported as they are;
    `known_buddy` is the picture of that moment.
    """

    after_s: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    before_bytes: int = 0
    known_bytes: int = 0
    known_buddy: BuddyInfo | None = None


def is_worth_it(now: Snapshot, state: Compacting, much_bytes: int | None) -> bool:
    """Whether to compact. `much_bytes`: so much must be newly trapped; None where nothing else helps."""
    if now.monotonic_s < state.after_s:
        return False
    trapped = now.trapped_bytes or 0
    if much_bytes is None:
        return trapped >= LEAST_GAIN_BYTES
    return trapped - state.known_bytes >= much_bytes


def worthy_nodes(now: Snapshot, state: Compacting) -> tuple[int, ...]:
    """The NUMA nodes that are worth it, where only some are; else none, which means all."""
    buddy, order = now.buddy, now.report_order
    if buddy is None or order is None:
        return ()
    every = buddyinfo.nodes(buddy)

    def fresh_bytes(node: int) -> int:
        known = 0
        if state.known_buddy is not None and state.known_bytes:
            known = buddyinfo.trapped_bytes(state.known_buddy, order, node)
        return buddyinfo.trapped_bytes(buddy, order, node) - known

    worth_it = tuple([node for node in every if fresh_bytes(node) >= LEAST_GAIN_BYTES])
    return worth_it if len(worth_it) < len(every) else ()


def learned(state: Compacting, outcome: Outcome, now: Snapshot) -> Compacting:
    """Learn from a finished one: what was not worth it is tried again later and later."""
    left = now.trapped_bytes or 0
    gained = state.before_bytes - left
    worth_it = max(
        LEAST_GAIN_BYTES // 2,
        state.before_bytes // 16,
        int(outcome.cpu_s * LEAST_BYTES_PER_CPU_S),
    )
    if outcome.ok:
        state = known(state, now)
    if outcome.ok and gained >= worth_it:
        return replace(state, backoff_s=BACKOFF_FIRST_S, after_s=now.monotonic_s)
    return replace(
        state,
        after_s=now.monotonic_s + state.backoff_s,
        backoff_s=min(BACKOFF_MAX_S, state.backoff_s * 2),
    )


def known(state: Compacting, now: Snapshot | None) -> Compacting:
    """What is trapped now needs no compaction; None: what was known counts no more."""
    if now is None:
        return replace(state, known_bytes=0, known_buddy=None)
    return replace(state, known_bytes=now.trapped_bytes or 0, known_buddy=now.buddy)
