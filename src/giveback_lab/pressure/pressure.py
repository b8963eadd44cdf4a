"""The host pressure demonstration: two VMs with full caches, and a hog that wants more than is free.

Every 0.5 s it records the small host, the VMs, and the size that the hog reports. It also records
how long each unit of the guests' light workload took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback_kernel.units import MIB
from giveback_lab.images.image import GUEST_AGENT
from giveback_lab.pressure.small_host import HostSample, SmallHost
from giveback_lab.vms.agent import AgentLog, start_agent
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

    Manager = Callable[[SmallHost, list[LabVm]], contextlib.AbstractAsyncContextManager[None]]

HOG = "hog"
PERIOD_S = 0.5
FILL_DEADLINE_S = 300.0
END_GRACE_S = 3.0
# Used until the manager connects and sends its own urgency.
CALM_S = 300.0
CALM_DEADLINE_S = 60.0

# In a guest: write and read cold MiB of files once, and read further files repeatedly.
FILL = """
cold=$1
dd if=/dev/zero of=/work/cold bs=1M count=$cold 2>/dev/null && sync && cat /work/cold > /dev/null
dd if=/dev/zero of=/work/hot bs=1M count=16 2>/dev/null && sync
for i in 1 2 3 4 5 6; do cat /work/hot > /dev/null; done
"""
# In a guest: a light continuous workload that computes, reads its hot file and changes its own
# memory.
LOOP = """
import hashlib, mmap, os, sys, time
own = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(own), 4096): own[at] = 1
hot, block, number = os.open("/work/hot", os.O_RDONLY), bytes(1 << 20), 0
while True:
    begin = time.perf_counter()
    digest = hashlib.sha256(block)
    for at in range(0, 16 << 20, 1 << 20):
        digest.update(os.pread(hot, 65536, at + number % 16 * 65536))
    for at in range(number % 64 << 20, (number % 64 + 1) << 20, 4096): own[at] = number & 255
    number += 1
    print("%.4f" % (time.perf_counter() - begin), flush=True)
    time.sleep(0.2)
"""
# On the host: take memory at a steady rate, print how much, hold it, exit.
HOG_PROGRAM = """
import mmap, sys, time
total, per_s, hold_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
step, held, begin = 4 << 20, [], time.monotonic()
while len(held) * step < total:
    part = mmap.mmap(-1, step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, step, 4096): part[at] = 1 + at % 251
    held.append(part)
    print(len(held) * step, flush=True)
    time.sleep(max(0, begin + len(held) * step / per_s - time.monotonic()))
time.sleep(hold_s)
print("done", flush=True)
"""


@dataclass(frozen=True, slots=True)
class PressureOptions:
    """The sizes of a run. The hog wants `hog_bytes`, more than is free."""

    ram_bytes: int = 768 * MIB
    limit_bytes: int = 2500 * MIB
    cold_bytes: int = 400 * MIB
    hog_bytes: int = 1200 * MIB
    hog_bytes_per_s: int = 50 * MIB
    hold_s: float = 5.0
    before_s: float = 15.0
    agents: bool = True
    names: tuple[str, ...] = ("one", "two")


@dataclass(frozen=True, slots=True)
class PressureSample:
    """All measurements of one 0.5 s interval."""

    t_s: float
    host: HostSample
    resident_bytes: dict[str, int]
    hog_bytes: int


@dataclass(slots=True)
class PressureRun:
    """The result of one run; times are seconds since the hog began."""

    options: PressureOptions
    samples: list[PressureSample] = field(default_factory=list)
    units: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Per VM: when a unit of its workload ended and how long it took, in seconds."""
    ended: dict[str, float] = field(default_factory=dict)
    """VMs that were killed, and when."""
    hog_ended: str = ""
    hog_took_s: float | None = None
    event_end_s: float = 0.0

    @property
    def oom_kills(self) -> int:
        """The number of OOM kills in the small host."""
        return max((one.host.oom_kills for one in self.samples), default=0)

    @property
    def vm_swap_bytes(self) -> int:
        """The highest number of bytes of all VMs together that were in swap."""
        names = self.options.names
        return max(
            (sum(one.host.group_swap_bytes[n] for n in names) for one in self.samples), default=0
        )

    @property
    def free_before_bytes(self) -> int:
        """The least that was available before the hog began, when a manager may already have acted."""
        return min((one.host.available_bytes for one in self.samples if one.t_s <= 0), default=0)

    @property
    def least_available_bytes(self) -> int:
        """The least that was available on the host during the run."""
        return min((one.host.available_bytes for one in self.samples), default=0)

    def returned_bytes(self) -> int:
        """Return the most that the VMs held before the hog, less the least that they held during it."""
        sums = [(one.t_s, sum(one.resident_bytes.values())) for one in self.samples]
        before = [resident for t_s, resident in sums if t_s <= 0]
        during = [resident for t_s, resident in sums if 0 < t_s <= self.event_end_s]
        return max(before) - min(during) if before and during and not self.ended else 0

    def median_s(self, name: str) -> float | None:
        """Return the median time of a unit of a VM's workload before the hog, in seconds."""
        before = self._units(name, -self.options.before_s, 0.0)
        return statistics.median(before) if before else None

    def _units(self, name: str, after_s: float, until_s: float) -> list[float]:
        return [took for at, took in self.units.get(name, []) if after_s < at <= until_s]

    def less_done(self, name: str) -> float | None:
        """Return by what fraction fewer units a second were done during the event: 0.05 is 5 %."""
        before = len(self._units(name, -self.options.before_s, 0.0)) / self.options.before_s
        during = len(self._units(name, 0.0, self.event_end_s))
        if not before or not self.event_end_s or name in self.ended:
            return None
        return 1 - during / self.event_end_s / before

    def slowdown(self, name: str) -> float | None:
        """Return by what fraction a unit took longer on average during the event: 0.05 is 5 %."""
        before = self._units(name, -self.options.before_s, 0.0)
        during = self._units(name, 0.0, self.event_end_s)
        if not before or not during or name in self.ended:
            return None
        return statistics.fmean(during) / statistics.fmean(before) - 1


async def run_pressure(
    options: PressureOptions,
    lab: Lab,
    accel: Accel,
    manager: Manager | None,
    say: Callable[[str], None] = lambda _: None,
) -> PressureRun:
    """Run once on a new small host. Raises InputError, and VmError before the hog begins."""
    run = PressureRun(options)
    with SmallHost(options.limit_bytes, (*options.names, HOG)) as host:
        async with contextlib.AsyncExitStack() as stack:
            vms = [
                LabVm(
                    VmSpec(f"pressure-{name}", options.ram_bytes, 1, accel.name),
                    lab.image, host.emulator_in(name, lab.emulator),
                )
                for name in options.names
            ]  # fmt: skip
            for vm in vms:
                stack.push_async_callback(vm.stop)
            await asyncio.gather(*(vm.boot() for vm in vms))
            say("booted")
            await asyncio.gather(*(_prepare(vm, options) for vm in vms))
            say("filled")
            if options.agents:
                await asyncio.gather(*(_agent(vm, told=manager is not None) for vm in vms))
            if manager is not None:
                await stack.enter_async_context(manager(host, vms))
            await _event(run, host, vms, say)
    return run


async def _agent(vm: LabVm, *, told: bool) -> None:
    """Start the agent; if `told`, send it urgency 0, as a manager would have done until now.

    An agent that was sent nothing releases cold cache before the manager has found it and the hog
    begins.
    """
    await start_agent(vm, AgentLog().take)
    if told:
        calm = ("urgency", "0", "--for", f"{CALM_S:.0f}")
        result = await vm.watch(
            vm.guest.exec("python3", GUEST_AGENT, *calm),
            CALM_DEADLINE_S,
            "sending its agent an urgency",
        )
        if result.code != 0:
            raise VmError(f"{vm.spec.name}: its agent took no urgency: {result.text[-300:]}")


async def _prepare(vm: LabVm, options: PressureOptions) -> None:
    """Run a workload in the guest that fills its caches."""
    # The VM's own statistics would compete with the workload; the QMP session belongs to the
    # manager.
    await vm.qmp.disconnect()
    filled = vm.guest.exec("sh", "-c", FILL, "fill", str(options.cold_bytes // MIB))
    result = await vm.watch(filled, FILL_DEADLINE_S, "filling its caches")
    if result.code != 0:
        raise VmError(f"{vm.spec.name}: filling its caches failed: {result.text[-300:]}")
    await asyncio.to_thread(_drop_from_cache, vm.folder / "work.ext4")


def _drop_from_cache(image: Path) -> None:
    """Drop the disk image from the host's page cache, as with cache=none.

    Otherwise the host would first reclaim its dirty pages, and the event would measure those.
    """
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


async def _event(
    run: PressureRun, host: SmallHost, vms: list[LabVm], say: Callable[[str], None]
) -> None:
    """Run the workload alone for a while, then the hog, while everything is recorded."""
    options = run.options
    origin_s = time.monotonic() + options.before_s
    for vm, name in zip(vms, options.names, strict=True):
        await vm.guest.spawn("python3", "-u", "-c", LOOP, on_line=_taker(run, name, origin_s))
    hog = _Hog()
    watching = asyncio.create_task(_watch(run, host, vms, hog, origin_s))
    try:
        await asyncio.sleep(max(0.0, origin_s - time.monotonic()))
        say("the hog begins")
        run.hog_ended = await hog.run(host, options)
        run.hog_took_s = hog.took_s
        run.event_end_s = time.monotonic() - origin_s
        say(f"the hog ended: {run.hog_ended}")
        await asyncio.sleep(END_GRACE_S)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await hog.stop()
    if not watching.cancelled() and (failure := watching.exception()) is not None:
        raise failure


def _taker(run: PressureRun, name: str, origin_s: float) -> Callable[[str], None]:
    units = run.units.setdefault(name, [])

    def take(line: str) -> None:
        with contextlib.suppress(ValueError):
            units.append((time.monotonic() - origin_s, float(line)))

    return take


async def _watch(
    run: PressureRun, host: SmallHost, vms: list[LabVm], hog: _Hog, origin_s: float
) -> None:
    while True:
        resident = {}
        for vm, name in zip(vms, run.options.names, strict=True):
            try:
                resident[name] = await asyncio.to_thread(vm.resident_bytes)
            except VmError:
                resident[name] = 0
                run.ended.setdefault(name, time.monotonic() - origin_s)
        run.samples.append(
            PressureSample(time.monotonic() - origin_s, host.sample(), resident, hog.held_bytes)
        )
        await asyncio.sleep(PERIOD_S)


class _Hog:
    """A process on the host that takes memory."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.took_s: float | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, host: SmallHost, options: PressureOptions) -> str:
        """Run to its end; return how it ended."""
        words = [str(options.hog_bytes), str(options.hog_bytes_per_s), str(options.hold_s)]
        began_s = time.monotonic()
        command = host.entering(HOG, sys.executable, "-c", HOG_PROGRAM, *words)
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        async for line in self._lines(self._process):
            if line.strip().isdigit():
                self.held_bytes = int(line)
                if self.held_bytes >= options.hog_bytes and self.took_s is None:
                    self.took_s = time.monotonic() - began_s
        code = await self._process.wait()
        self.held_bytes = 0
        return "got all it wanted" if code == 0 else f"killed at {_mib(line)} MiB"

    async def _lines(self, process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
        assert process.stdout is not None  # noqa: S101  # asked for above
        while line := await process.stdout.readline():
            yield line

    async def stop(self) -> None:
        """Kill the process if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def _mib(line: bytes) -> int:
    return int(line) // MIB if line.strip().isdigit() else 0


def as_json(run: PressureRun) -> str:
    """Return the measurements as JSON, for a chart or a later analysis."""
    samples = [
        {
            "t_s": round(one.t_s, 2),
            "available": one.host.available_bytes,
            "used": one.host.used_bytes,
            "swap": one.host.group_swap_bytes,
            "groups": one.host.group_bytes,
            "resident": one.resident_bytes,
            "hog": one.hog_bytes,
            "oom_kills": one.host.oom_kills,
        }
        for one in run.samples
    ]
    whole = {
        "looks": samples, "units": run.units, "ended": run.ended, "hog_ended": run.hog_ended,
        "hog_took_s": run.hog_took_s, "event_end_s": run.event_end_s,
    }  # fmt: skip
    return json.dumps(whole)
