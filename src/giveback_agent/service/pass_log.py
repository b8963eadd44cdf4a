"""What a pass did: each step's gain by what the guest shows before and after it, and the log's words."""

from __future__ import annotations

from giveback_agent.policy.actions import Compact, DrainLists
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


class StepRecord(Record):
    """One finished step; `gain_bytes` are freed bytes, for a compaction bytes made contiguous."""

    kind: str
    gain_bytes: int
    took_s: float
    cpu_s: float
    end: str


class PassRecord(Record):
    """One finished pass, with the guest at its beginning and its end."""

    started_s: float
    took_s: float
    why: str
    end: str
    steps: tuple[StepRecord, ...]
    non_free_before_bytes: int
    non_free_after_bytes: int
    trapped_before_bytes: int
    trapped_after_bytes: int
    cpu_s: float
    deep_order: int | None = None


class PassLog:
    """The pass that goes on, and the last ones that ended."""

    def __init__(self) -> None:
        self.begin: Snapshot | None = None
        self.why = ""
        self.steps: list[StepRecord] = []
        self.deep_order: int | None = None
        self.ended: list[PassRecord] = []
        self.count = 0
        self.slack_steps = self.slack_bytes = 0

    def start(self, begin: Snapshot, why: str) -> None:
        """A pass begins."""
        self.begin, self.why, self.steps, self.deep_order = begin, why, [], None

    def note(self, outcome: StepOutcome, before: Snapshot, after: Snapshot) -> StepRecord:
        """Account a step that has just ended; outside of a pass only their number and gain are kept."""
        if outcome.kind == Compact.kind:
            gain = (before.trapped_bytes or 0) - (after.trapped_bytes or 0)
        else:
            gain = before.meminfo.non_free_bytes - after.meminfo.non_free_bytes
        end = "given up" if outcome.abandoned else "done" if outcome.ok else FAILED
        step = StepRecord(outcome.kind, gain, outcome.took_s, outcome.cpu_s, end)
        if self.begin is not None:
            self.steps.append(step)
        else:
            self.slack_steps += 1
            self.slack_bytes += max(0, gain)
        return step

    def finish(self, after: Snapshot, end: str) -> PassRecord | None:
        """The pass is over: return its record, or None where none had begun."""
        begin = self.begin
        if begin is None:
            return None
        record = PassRecord(
            begin.monotonic_s, after.monotonic_s - begin.monotonic_s, self.why, end, tuple(self.steps),
            begin.meminfo.non_free_bytes, after.meminfo.non_free_bytes,
            begin.trapped_bytes or 0, after.trapped_bytes or 0, sum([s.cpu_s for s in self.steps]),
            self.deep_order,
        )  # fmt: skip
        self.begin = None
        self.count += 1
        self.ended = [*self.ended, record][-KEPT:]
        return record


def gain_of(record: PassRecord, kind: str) -> int:
    """The bytes that a pass's steps of one kind gained together."""
    return sum([step.gain_bytes for step in record.steps if step.kind == kind])


def compacted(record: PassRecord) -> bool:
    """Whether memory was compacted in a pass, if only for a while."""
    return any(step.kind == Compact.kind and step.end != FAILED for step in record.steps)


def words(record: PassRecord, classic: str) -> str:
    """The pass in one line of the kernel log: `classic`, which users grep for, where it compacted."""
    from_lists = max(0, gain_of(record, DrainLists.kind))
    freed = max(0, record.non_free_before_bytes - record.non_free_after_bytes - from_lists)
    gains = f"{freed // MIB} MiB of cache and slab freed"
    if from_lists >= MIB:
        gains += f", {from_lists // MIB} MiB taken from per-CPU lists"
    title = PASS_LINE
    if compacted(record):
        title = classic
        gains += f", {max(0, gain_of(record, Compact.kind)) // MIB} MiB made contiguous"
    reported = record.deep_order is not None and record.end == "done"
    rest = "in small pieces reported, too" if reported else "left in small pieces"
    text = (
        f"{title}: {gains}, {record.trapped_after_bytes // MIB} MiB {rest}, {record.took_s:.0f} s"
    )
    return text if record.end == "done" else f"{text}, stopped: {record.end}"
