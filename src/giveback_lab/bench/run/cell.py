"""One cell: boot its VMs, start the strategy, run the workload, watch, read again, and clean up.

Cells may overlap in their idle minutes. Steps that are timed, or that load the host, run in one
cell at a time: the boot, the workload and the seconds after it, each later step. A cell that waits
for its turn is frozen: its VMs' CPUs and clocks are stopped, so that waiting changes nothing in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from qemu.qmp import QMPError

from giveback.errors import VmError
from giveback_lab.bench.model import CellResult
from giveback_lab.bench.run.host_load import HostLoad, others_share
from giveback_lab.bench.run.measure import Meter, Stopwatch
from giveback_lab.images.debian_files import WITHOUT_AGENT
from giveback_lab.vms.side_by_side import side_by_side
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
    from pathlib import Path

    from giveback_lab.bench.model import Cell, MarkName
    from giveback_lab.bench.strategy import Running, Strategy
    from giveback_lab.bench.works import Step, Work
    from giveback_lab.vms.lab import Lab

SETTLE_S = 5.0
# Most strategies act within this many seconds of the workload's end, and sooner after a later step.
ACT_S = 20.0
ACT_AGAIN_S = 15.0
HASTE_S = 3.0
FOLDER = "/work/bench"
WORK_DISK_TIMES_RAM = 3
QMP_DEADLINE_S = 20.0
# Steps after which nothing is watched.
UNWATCHED = ("reread", "again", "report")


@dataclass(frozen=True, slots=True)
class CellSetting:
    """The parts of a measurement that are the same for many cells."""

    lab: Lab
    accel: str
    cpus: int
    seed: int
    logs: Path


class Turn:
    """The right to load the host. Waiting for it freezes the cell's VMs."""

    def __init__(self, lock: asyncio.Lock, watch: Stopwatch) -> None:
        self._lock = lock
        self._watch = watch
        self._mine = False

    async def take(self, vms: Sequence[LabVm]) -> None:
        """Wait for the turn; return at once if this cell has it already. Raises VmError."""
        if self._mine:
            return
        if not self._lock.locked():
            await self._lock.acquire()
            self._mine = True
            return
        self._watch.pause()
        await _all_do(vms, "stop")
        await self._lock.acquire()
        self._mine = True
        await _all_do(vms, "cont")
        self._watch.resume()

    def give(self) -> None:
        """Release the turn; do nothing if this cell does not have it."""
        if self._mine:
            self._mine = False
            self._lock.release()


async def _all_do(vms: Sequence[LabVm], command: str) -> None:
    for vm in vms:
        try:
            await vm.watch(vm.qmp.execute(command), QMP_DEADLINE_S, f"QMP {command}")
        except QMPError as error:
            raise VmError(f"{vm.spec.name}: QMP {command}: {error}") from error


class CellRun:
    """Measure one cell; use once."""

    def __init__(
        self,
        cell: Cell,
        work: Work,
        strategy: Strategy,
        setting: CellSetting,
        lock: asyncio.Lock,
        load: HostLoad,
    ) -> None:
        self._cell, self._work, self._strategy = cell, work, strategy
        self._setting, self._load = setting, load
        self._watch = Stopwatch()
        self._turn = Turn(lock, self._watch)
        self._meters: list[Meter] = []
        self._pids: Mapping[str, tuple[int, ...]] = {}

    async def run(self, versions: Mapping[str, str]) -> CellResult:
        """Run the whole cell. At the end its VMs are gone and the turn is free. Raises VmError."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        problems: list[str] = []
        try:
            await self._turn.take(())
            first, began_s = self._load.mark(), time.monotonic()
            async with self._vms() as vms, self._strategy_on(vms, problems):
                self._meters = [Meter(vm, self._watch) for vm in vms]
                await self._sampled(self._course())
            last = self._load.mark()
        finally:
            self._turn.give()
        return CellResult(
            cell=self._cell,
            vms=tuple(meter.course() for meter in self._meters),
            versions=versions,
            started_at=started_at,
            took_s=round(time.monotonic() - began_s, 1),
            host_busy_share=round(others_share(first, last), 4),
            problems=tuple(problems),
        )

    @contextlib.asynccontextmanager
    async def _vms(self) -> AsyncIterator[list[LabVm]]:
        """Boot the VMs side by side and yield them; their logs are kept if the block fails."""
        names = ["vm"] if self._work.vms == 1 else [f"vm{n + 1}" for n in range(self._work.vms)]
        lab = self._setting.lab
        async with contextlib.AsyncExitStack() as stack:
            vms: list[LabVm] = []
            try:
                for name in names:
                    vm = LabVm(self._spec(name), lab.image, lab.emulator)
                    stack.push_async_callback(self._end, vm)
                    vms.append(vm)
                await side_by_side([self._boot(vm) for vm in vms])
                yield vms
            except VmError:
                for vm in vms:
                    vm.keep_logs(self._setting.logs / self._cell.key)
                raise

    async def _boot(self, vm: LabVm) -> None:
        await vm.boot()
        self._load.follow([vm.pid])

    async def _end(self, vm: LabVm) -> None:
        with contextlib.suppress(VmError):
            self._load.leave([vm.pid])
        await vm.stop()

    def _spec(self, name: str) -> VmSpec:
        ram_bytes = self._work.ram_bytes(self._cell.mem_bytes)
        return VmSpec(
            name=name, ram_bytes=ram_bytes, cpus=self._setting.cpus, accel=self._setting.accel,
            reporting=self._strategy.reporting, work_disk_bytes=WORK_DISK_TIMES_RAM * ram_bytes,
            kernel_arguments=self._kernel_arguments(),
        )  # fmt: skip

    def _kernel_arguments(self) -> str:
        """Return the strategy's own arguments, for a distribution guest with one against its agent.

        A distribution guest must not install the agent by itself: giveback's cell starts it.
        """
        own = self._strategy.kernel_arguments
        return f"{own} {WITHOUT_AGENT}".strip() if self._setting.lab.image.has_systemd else own

    @contextlib.asynccontextmanager
    async def _strategy_on(self, vms: Sequence[LabVm], problems: list[str]) -> AsyncIterator[None]:
        """Keep the strategy running; its failures are added to `problems`."""
        running = await self._strategy.start(vms, self._cell.mem_bytes)
        self._pids = running.guest_pids
        try:
            yield
        except asyncio.CancelledError:
            # The user waits and the guests are about to be stopped, so there is no time to end it
            # cleanly.
            with contextlib.suppress(TimeoutError, VmError):
                await asyncio.wait_for(running.stop(), HASTE_S)
            raise
        except VmError:
            await running.stop()
            self._keep_log(running)
            raise
        await running.stop()
        problems += running.problems
        self._keep_log(running)

    def _keep_log(self, running: Running) -> None:
        if running.log:
            with contextlib.suppress(OSError):
                self._setting.logs.mkdir(parents=True, exist_ok=True)
                (self._setting.logs / f"{self._cell.key}.log").write_text(running.log)

    async def _sampled(self, course: Coroutine[Any, Any, None]) -> None:
        """Run the course while all VMs are sampled; sampling ends only with an error."""
        sampling = [meter.sample_for_ever() for meter in self._meters]
        await side_by_side([course, *sampling], asyncio.FIRST_COMPLETED)

    async def _course(self) -> None:
        vms = [meter.vm for meter in self._meters]
        await self._watch.wait_until(self._watch.now_s() + SETTLE_S)
        for meter in self._meters:
            await self._count(meter, "before")
        moved_s = self._watch.set_zero()
        for meter in self._meters:
            meter.shift(moved_s)
        await self._do_works()
        await self._idle(ACT_S, self._work.idle_s)
        for meter in self._meters:
            await meter.sample_now()
            meter.mark("idle", meter.work_end_s or 0.0)
        for step in self._work.steps:
            await self._turn.take(vms)
            await self._step(step)
        await self._turn.take(vms)
        for meter in self._meters:
            await self._count(meter, "after")

    async def _do_works(self) -> None:
        """Run every VM's workload: all at once, or each some time after the one before."""
        if self._work.order == "aligned":
            await side_by_side([self._do_work(meter) for meter in self._meters])
            return
        for meter in self._meters:
            if meter is not self._meters[0]:
                await self._idle(ACT_S, self._work.gap_s)
                await self._turn.take([meter.vm for meter in self._meters])
            await self._do_work(meter)

    async def _idle(self, loud_s: float, idle_s: float) -> None:
        """Watch for `idle_s`; after the first `loud_s` of them another cell may have the turn.

        A strategy that by its rule rests for at least `loud_s` needs no quiet host.
        """
        began_s = self._watch.now_s()
        if self._strategy.quiet_s < loud_s:
            await self._watch.wait_until(began_s + min(loud_s, idle_s))
        if not self._work.alone:
            self._turn.give()
        await self._watch.wait_until(began_s + idle_s)

    async def _do_work(self, meter: Meter) -> None:
        words = self._words(meter)
        await meter.work(words)
        await self._count(meter, "after_work")
        if self._work.lingers:
            await meter.linger(words)

    def _words(self, meter: Meter) -> tuple[str, ...]:
        spec = meter.vm.spec
        ram, seed = str(spec.ram_bytes), str(self._setting.seed)
        return (self._work.job, FOLDER, ram, seed, str(spec.cpus))

    async def _count(self, meter: Meter, moment: str) -> None:
        await meter.count(moment, self._pids.get(meter.vm.spec.name, ()))

    async def _step(self, step: Step) -> None:
        """Run a step on all VMs; every step but the last is watched like the workload's end."""
        for meter in self._meters:
            at_s = self._watch.now_s()
            if step == "reread":
                await meter.reread(self._words(meter))
            elif step == "again":
                await meter.again(self._words(meter))
            elif step == "report":
                await meter.report(self._words(meter))
            elif step == "clean":
                await meter.step("clean", *self._words(meter))
            else:
                await meter.step("drop")
            meter.mark(step, at_s)
        if step in UNWATCHED:
            return
        done_s = self._watch.now_s()
        await self._idle(ACT_AGAIN_S, self._work.idle_s)
        watched: MarkName = "cleaned" if step == "clean" else "dropped"
        for meter in self._meters:
            await meter.sample_now()
            meter.mark(watched, done_s)
