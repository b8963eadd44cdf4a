"""What a pass did: each step's gain by what the guest shows before and after it, and the log's words."""

from __future__ import annotations

from giveback_agent.policy.actions import (
    Compact,
    DrainLists,
    DropCaches,
    Reclaim,
    ReclaimCold,
    ReclaimEnded,
    ReclaimSlab,
)
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.observation import Snapshot, StepOutcome

MIB = 1 << 20
KEPT = 10
CLASSIC_LINE = "giveback: performing memory compaction"
WSL_LINE = "WSL2: Performing memory compaction"
# The same for a pass that compacted nothing.
PASS_LINE = "giveback: giving memory back"
FAILED = "failed"
# Steps whose gain is cache and slab. What is free after a sync is not of its making.
FREEING = (ReclaimCold.kind, ReclaimEnded.kind, Reclaim.kind, DropCaches.kind, ReclaimSlab.kind)


class StepRecord(Record):
    """One finished step; `freed_bytes` are freed bytes, for a compaction bytes made contiguous.

    Never negative: what the guest took meanwhile is its own affair.
    """

    kind: str
    freed_bytes: int
    took_s: float
    cpu_s: float
    end: str


class PassRecord(Record):
    """One finished pass: what its steps have done, and the free memory in small blocks before and after.

    The kernel log, `status` and its JSON all say these amounts. `freed_bytes` are cache and slab,
    `from_lists_bytes` came from per-CPU lists. `small_reported`: what is in small blocks at the end was
    reported, too; then nothing is trapped in them.
    """

    started_s: float
    took_s: float
    why: str
    end: str
    steps: tuple[StepRecord, ...]
    freed_bytes: int
    from_lists_bytes: int
    contiguous_bytes: int
    small_before_bytes: int
    small_after_bytes: int
    cpu_s: float
    deep_order: int | None = None

    @property
    def small_reported(self) -> bool:
        """Whether the small blocks were reported."""
        return self.deep_order is not None and self.end == "done"


class PassLog:
    """The pass that goes on, and the last ones that ended.

    `small_reported_bytes` are free in small blocks and were reported by a pass: the host has them back,
    though the free lists do not tell them from what is trapped.
    """

    def __init__(self) -> None:
        self.begin: Snapshot | None = None
        self.why = ""
        self.steps: list[StepRecord] = []
        self.deep_order: int | None = None
        self.ended: list[PassRecord] = []
        self.count = 0
        self.small_steps = self.small_bytes = 0
        self.small_reported_bytes = 0

    def start(self, begin: Snapshot, why: str) -> None:
        """A pass begins."""
        self.begin, self.why, self.steps, self.deep_order = begin, why, [], None

    def note(self, outcome: StepOutcome, before: Snapshot, after: Snapshot) -> StepRecord:
        """Account a step that has just ended; outside of a pass only their number and gain are kept."""
        if outcome.kind == Compact.kind:
            gain = (before.trapped_bytes or 0) - (after.trapped_bytes or 0)
        else:
            gain = before.meminfo.non_free_bytes - after.meminfo.non_free_bytes
        gain = max(0, gain)
        end = "given up" if outcome.abandoned else "done" if outcome.ok else FAILED
        step = StepRecord(outcome.kind, gain, outcome.took_s, outcome.cpu_s, end)
        if self.begin is not None:
            self.steps.append(step)
        else:
            self.small_steps += 1
            self.small_bytes += gain
        return step

    def finish(self, after: Snapshot, end: str) -> PassRecord | None:
        """The pass is over: return its record, or None where none had begun."""
        begin = self.begin
        if begin is None:
            return None
        steps = tuple(self.steps)
        record = PassRecord(
            begin.monotonic_s, after.monotonic_s - begin.monotonic_s, self.why, end, steps,
            _freed_by(steps, FREEING), _freed_by(steps, (DrainLists.kind,)),
            _freed_by(steps, (Compact.kind,)), begin.trapped_bytes or 0, after.trapped_bytes or 0,
            sum([s.cpu_s for s in steps]), self.deep_order,
        )  # fmt: skip
        small, before = record.small_after_bytes, self.small_reported_bytes
        self.small_reported_bytes = small if record.small_reported else min(before, small)
        self.begin = None
        self.count += 1
        self.ended = [*self.ended, record][-KEPT:]
        return record


def _freed_by(steps: tuple[StepRecord, ...], kinds: tuple[str, ...]) -> int:
    """The bytes that steps of some kinds gained together."""
    return sum([step.freed_bytes for step in steps if step.kind in kinds])


def compacted(record: PassRecord) -> bool:
    """Whether memory was compacted in a pass, if only for a while."""
    return any(step.kind == Compact.kind and step.end != FAILED for step in record.steps)


def words(record: PassRecord, classic: str) -> str:
    """The pass in one line of the kernel log: `classic`, which users grep for, where it compacted."""
    gains = f"{record.freed_bytes // MIB} MiB of cache and slab freed"
    if record.from_lists_bytes >= MIB:
        gains += f", {record.from_lists_bytes // MIB} MiB taken from per-CPU lists"
    title = PASS_LINE
    if compacted(record):
        title = classic
        gains += f", {record.contiguous_bytes // MIB} MiB made contiguous"
    rest = "in small pieces reported, too" if record.small_reported else "left in small pieces"
    text = f"{title}: {gains}, {record.small_after_bytes // MIB} MiB {rest}, {record.took_s:.0f} s"
    return text if record.end == "done" else f"{text}, stopped: {record.end}"
