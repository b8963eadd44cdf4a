"""The record of a pass: bytes freed by each step, from snapshots before and after it, and its log line."""

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
from giveback_kernel.units import span

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
# Steps that free cache and slab. Memory that is free after a sync was not freed by it.
FREEING = (ReclaimCold.kind, ReclaimEnded.kind, Reclaim.kind, DropCaches.kind, ReclaimSlab.kind)


class StepRecord(Record):
    """A finished step. `freed_bytes`: bytes freed, or made contiguous by a compaction.

    It is never negative, although the guest may have allocated memory meanwhile.
    """

    kind: str
    freed_bytes: int
    took_s: float
    cpu_s: float
    end: str


class PassRecord(Record):
    """A finished pass: the bytes freed by its steps, and free memory in small blocks before and after.

    The kernel log, `status` and its JSON all show these amounts. `freed_bytes` are cache and slab,
    `from_lists_bytes` came from per-CPU lists. `small_reported`: memory in small blocks at the end was
    reported as well, so that none of it is trapped.
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
    """The pass under way and the last finished ones. `doing` is the step that runs now, in words.

    `small_reported_bytes` are free in small blocks and were reported by a pass: the host has them back,
    but the free lists do not distinguish them from trapped memory. `small_steps` and `small_bytes` count
    the steps outside of passes.
    """

    def __init__(self) -> None:
        self.begin: Snapshot | None = None
        self.why = ""
        self.doing = ""
        self.steps: list[StepRecord] = []
        self.deep_order: int | None = None
        self.ended: list[PassRecord] = []
        self.count = 0
        self.small_steps = self.small_bytes = 0
        self.small_reported_bytes = 0

    def start(self, begin: Snapshot, why: str) -> None:
        """Begin a pass at the snapshot `begin`."""
        self.begin, self.why, self.steps, self.deep_order = begin, why, [], None

    def note(self, outcome: StepOutcome, before: Snapshot, after: Snapshot) -> StepRecord:
        """Account a step that has just ended; outside of a pass only the totals are kept."""
        if outcome.kind == Compact.kind:
            freed = (before.trapped_bytes or 0) - (after.trapped_bytes or 0)
        else:
            freed = before.meminfo.non_free_bytes - after.meminfo.non_free_bytes
        freed = max(0, freed)
        self.doing = ""
        end = "abandoned" if outcome.abandoned else "done" if outcome.ok else FAILED
        step = StepRecord(outcome.kind, freed, outcome.took_s, outcome.cpu_s, end)
        if self.begin is not None:
            self.steps.append(step)
        else:
            self.small_steps += 1
            self.small_bytes += freed
        return step

    def finish(self, after: Snapshot, end: str) -> PassRecord | None:
        """End the pass and return its record; None if none had begun."""
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
    """Return the bytes that steps of some kinds freed together."""
    return sum([step.freed_bytes for step in steps if step.kind in kinds])


def compacted(record: PassRecord) -> bool:
    """Tell whether memory was compacted in a pass, completely or in part."""
    return any(step.kind == Compact.kind and step.end != FAILED for step in record.steps)


def words(record: PassRecord, classic: str) -> str:
    """Describe the pass in one line of the kernel log.

    It begins with `classic`, a line that users grep for, if the pass compacted memory.
    """
    freed = f"{record.freed_bytes // MIB} MiB of cache and slab freed"
    if record.from_lists_bytes >= MIB:
        freed += f", {record.from_lists_bytes // MIB} MiB taken from per-CPU lists"
    title = PASS_LINE
    if compacted(record):
        title = classic
        freed += f", {record.contiguous_bytes // MIB} MiB made contiguous"
    rest = "in small blocks also reported" if record.small_reported else "left in small free blocks"
    text = f"{title}: {freed}, {record.small_after_bytes // MIB} MiB {rest}, {span(round(record.took_s))}"
    return text if record.end == "done" else f"{text}, stopped: {record.end}"
