"""Measure all planned cells: some at the same time, each stored when it ends, failed ones once more."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback_lab.bench.analysis.comparable import NONE
from giveback_lab.bench.model import CellResult
from giveback_lab.bench.run.cell import CellRun
from giveback_lab.bench.run.host_load import HostLoad
from giveback_lab.bench.run.plan import differences, remaining_s
from giveback_lab.bench.run.store import ResultRefused
from giveback_lab.bench.run.versions import versions
from giveback_lab.bench.strategy import CannotRun
from giveback_lab.vms.side_by_side import side_by_side

if TYPE_CHECKING:
    from giveback_lab.bench.model import Cell
    from giveback_lab.bench.run.cell import CellSetting
    from giveback_lab.bench.run.store import Store
    from giveback_lab.bench.strategy import Strategy
    from giveback_lab.bench.works import Work

Say = Callable[[str], None]
TRIES = 2
# The boot, the start of the strategy and the VM's end, in seconds, for a cell without a history.
GUESS_S = 240.0
HOURS_S = 3600
# If others use more than this fraction of the host's CPUs, a cell's times are doubtful.
BUSY_SHARE = 0.10
# A round may take this many times as long as the round before it.
LONGER = 1.1


@dataclass(frozen=True, slots=True)
class CellJob:
    """A cell with everything needed to measure it."""

    cell: Cell
    work: Work
    strategy: Strategy
    setting: CellSetting

    def versions(self) -> dict[str, str]:
        """Return the versions of everything that takes part."""
        return versions(self.work, self.strategy, self.setting)


@dataclass(slots=True)
class Progress:
    """Print a line for each cell, with an estimate of the remaining time."""

    say: Say
    total: int
    began_s: float = field(default_factory=time.monotonic)
    took_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    left: list[str] = field(default_factory=list)
    done: int = 0

    def finished(self, job: CellJob, result: CellResult) -> None:
        """Report a cell that has ended, successfully or not."""
        self.done += 1
        self.left.remove(job.work.name)
        self.took_s[job.work.name].append(result.took_s)
        self.say(f"[{self.done}/{self.total}] {described(result)}{self._time_left()}")

    def _time_left(self) -> str:
        if not self.left:
            return ""
        spent = sum(sum(took) for took in self.took_s.values())
        # Cells overlap, so a second of the clock is worth more than one second of a cell.
        worth = (time.monotonic() - self.began_s) / spent if spent > 0 else 1.0
        seconds = remaining_s(self.took_s, self.left, GUESS_S) * worth
        return f"; {duration(seconds)} left"


def described(result: CellResult) -> str:
    """Return one finished cell as a line of text."""
    cell = result.cell
    name = f"{cell.work}, {cell.strategy}, {cell.kernel}, {cell.mem_bytes >> 20} MiB, round {cell.round}"
    if not result.vms:
        return f"{name}: failed: {'; '.join(result.problems)}"
    work_s = max(vm.work_s for vm in result.vms)
    peak = max(s.resident_bytes for vm in result.vms for s in vm.samples) >> 20
    last = sum(vm.samples[-1].resident_bytes for vm in result.vms) >> 20
    words = [f"work {work_s:.1f} s", f"peak {peak} MiB" * (len(result.vms) == 1)]
    words += [f"at the end {last} MiB", f"took {result.took_s:.0f} s"]
    if result.host_busy_share > BUSY_SHARE:
        words.append(f"others used {result.host_busy_share:.0%} of the host")
    words += result.problems
    return f"{name}: {', '.join(word for word in words if word)}"


def duration(seconds: float) -> str:
    """Return a time as text: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"about {max(1, round(seconds / 10)) * 10} s"
    if seconds < HOURS_S:
        return f"about {seconds / 60:.0f} min"
    return f"about {int(seconds // HOURS_S)} h {int(seconds % HOURS_S // 60)} min"


def to_do(jobs: Sequence[CellJob], store: Store, say: Say) -> list[CellJob]:
    """Return the cells that are not stored, or that would be measured differently now; print the latter.

    The cells of `none` of the same workload and round are added: times compare only within a
    sitting.
    """
    left: set[Cell] = set()
    for job in jobs:
        reason = _why_again(job, store)
        if reason is not None:
            left.add(job.cell)
            if reason:
                say(f"{job.cell.key}: {reason}: measured again")
    nones = {replace(cell, strategy=NONE) for cell in left}
    beside = {job.cell for job in jobs} & nones - left
    there = len(jobs) - len(left) - len(beside)
    if there:
        say(f"{there} of {len(jobs)} cells are there already")
    if beside:
        say(f"cells of none that are measured once more, beside the others: {len(beside)}")
    return [job for job in jobs if job.cell in left | beside]


def _why_again(job: CellJob, store: Store) -> str | None:
    """Return why a cell must be measured (empty if it is not stored), or None if it need not be."""
    stored = store.read(job.cell)
    if stored is None:
        return ""
    if isinstance(stored, ResultRefused):
        return stored.reason
    return "; ".join(differences(job.cell, stored.versions, job.versions())) or None


class Room:
    """The host's memory, divided among the running cells. A single cell always fits."""

    def __init__(self, room_bytes: float) -> None:
        self._room_bytes = room_bytes
        self._taken_bytes = 0
        self._left = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def of(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until `size_bytes` are free, and reserve them until the end of the block."""
        async with self._left:
            await self._left.wait_for(lambda: self._fits(size_bytes))
            self._taken_bytes += size_bytes
        try:
            yield
        finally:
            self._taken_bytes -= size_bytes
            async with self._left:
                self._left.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        return not self._taken_bytes or self._taken_bytes + size_bytes <= self._room_bytes


def another_fits(elapsed_s: float, last_round_s: float, within_s: float) -> bool:
    """Return whether one more round, slightly longer than the last one, ends in time."""
    return elapsed_s + last_round_s * LONGER <= within_s


async def run_in_time(
    jobs: Sequence[CellJob],
    store: Store,
    at_once: int,
    say: Say,
    room_bytes: float = math.inf,
    *,
    began_s: float,
    within_s: float,
    read_s: Callable[[], float] = time.monotonic,
) -> list[CellResult]:
    """Run `run_all` for one round after the other: the first always, further ones if they fit.

    All must end `within_s` seconds after `began_s`, by the clock `read_s`. All are of one sitting.
    """
    results: list[CellResult] = []
    last_round_s = 0.0
    for number, of_round in groupby(jobs, key=lambda job: job.cell.round):
        round_began_s = read_s()
        if results and not another_fits(round_began_s - began_s, last_round_s, within_s):
            say(
                f"round {number} would not end within {within_s / 60:.0f} minutes and is left out: "
                "the same command, started again, measures it"
            )
            break
        sitting = results[0].sitting if results else ""
        results += await run_all(list(of_round), store, at_once, say, room_bytes, sitting)
        last_round_s = read_s() - round_began_s
    return results


async def run_all(
    jobs: Sequence[CellJob],
    store: Store,
    at_once: int,
    say: Say,
    room_bytes: float = math.inf,
    sitting: str = "",
) -> list[CellResult]:
    """Measure the cells in their order; each is stored when it ends.

    Up to `at_once` run at the same time, if their VMs fit into `room_bytes`. A failed cell is tried
    once more; if it fails again it is stored and reported as failed. Without `sitting` the cells
    get a new one. Raises GivebackError if a result cannot be written.
    """
    lock, load, room = asyncio.Lock(), HostLoad(), Room(room_bytes)
    progress = Progress(say, len(jobs), left=[job.work.name for job in jobs])
    waiting = iter(jobs)
    sitting = sitting or datetime.now(UTC).isoformat()
    results: list[CellResult] = []

    async def take_cells() -> None:
        for job in waiting:
            async with room.of(job.work.most_bytes(job.cell.mem_bytes)):
                result = await _measured(job, lock, load, say)
            result = replace(result, sitting=sitting)
            store.write(result)
            results.append(result)
            progress.finished(job, result)

    await side_by_side(take_cells() for _ in range(max(1, at_once)))
    return results


async def _measured(job: CellJob, lock: asyncio.Lock, load: HostLoad, say: Say) -> CellResult:
    """Return a cell's result; after two failures one without VMs, with the reasons."""
    began_s, reasons = time.monotonic(), []
    known = job.versions()
    for number in range(1, TRIES + 1):
        run = CellRun(job.cell, job.work, job.strategy, job.setting, lock, load)
        try:
            return await run.run(known)
        except CannotRun as error:
            reasons.append(f"cannot run here: {error}")
            break
        except VmError as error:
            reasons.append(str(error))
            if number < TRIES:
                say(f"{job.cell.key}: {error}: tried once more")
    return _failure(job.cell, known, dict.fromkeys(reasons), time.monotonic() - began_s)


def _failure(
    cell: Cell, known: Mapping[str, str], reasons: Mapping[str, None], took_s: float
) -> CellResult:
    return CellResult(
        cell=cell,
        vms=(),
        versions=known,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        took_s=round(took_s, 1),
        host_busy_share=0.0,
        problems=tuple(reasons),
    )
