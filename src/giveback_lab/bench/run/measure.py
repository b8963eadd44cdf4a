"""Measure one VM: a sample each second, marks, the workload's own output, counters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest.protocol import parse_object
from giveback_kernel import meminfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.model import (
    CellMark,
    CellSample,
    Counters,
    MemoryFlow,
    ServiceFigures,
    VmCourse,
)
from giveback_lab.bench.run.counters import read_counters
from giveback_lab.bench.run.host_load import process_cpu
from giveback_lab.bench.run.returns import SCAN_PERIOD_S, ReturnCounts, ReturnScanner
from giveback_lab.images.image import GUEST_LAB

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_lab.bench.model import MarkName
    from giveback_lab.vms.guest_link import Event
    from giveback_lab.vms.vm import LabVm

PERIOD_S = 1.0
# Answering costs a guest CPU time, and some strategies want it idle. Sampled each second, an idle
# guest was 0.3 % busy under emulation, where WSL's rule allows 0.5 %. With this period it is 0.08
# %.
GUEST_PERIOD_S = 10.0
SILENCE_LIMIT_S = 60.0
WORK_DEADLINE_S = 3600.0
STEP_DEADLINE_S = 600.0


class Stopwatch:
    """Seconds since a zero that may be set later; the time between pause and resume does not count."""

    def __init__(self, read_s: Callable[[], float] = time.monotonic) -> None:
        self._read_s = read_s
        self._zero_s = read_s()
        self._paused_at_s: float | None = None

    def now_s(self) -> float:
        """Return the seconds since the zero; constant while paused."""
        at_s = self._read_s() if self._paused_at_s is None else self._paused_at_s
        return at_s - self._zero_s

    def set_zero(self) -> float:
        """Make now the zero; return by how many seconds that moved it."""
        moved_s = self.now_s()
        self._zero_s += moved_s
        return moved_s

    @property
    def paused(self) -> bool:
        """Whether the stopwatch is paused."""
        return self._paused_at_s is not None

    def pause(self) -> None:
        """Stop counting."""
        if self._paused_at_s is None:
            self._paused_at_s = self._read_s()

    def resume(self) -> None:
        """Continue counting."""
        if self._paused_at_s is not None:
            self._zero_s += self._read_s() - self._paused_at_s
            self._paused_at_s = None

    async def wait_until(self, t_s: float) -> None:
        """Sleep until that second; return at once if it has passed. Do not use while paused."""
        await asyncio.sleep(max(0.0, t_s - self.now_s()))


class Meter:
    """Collect a VmCourse; times are the stopwatch's."""

    def __init__(self, vm: LabVm, watch: Stopwatch) -> None:
        self.vm = vm
        self._watch = watch
        self._samples: list[CellSample] = []
        self._marks: list[CellMark] = []
        self._flows: list[MemoryFlow] = []
        self._scanner, self._returns = ReturnScanner(vm), ReturnCounts()
        self._heard_s = watch.now_s()
        self._scanned_s = -SCAN_PERIOD_S
        self._sampled_s = self._heard_s
        self._failure: VmError | None = None
        self._most_total_bytes = 0
        self.work_s = 0.0
        self.work_end_s: float | None = None
        self._hot_bytes = 0
        self._needed_bytes: int | None = None
        self._reread_s: float | None = None
        self._again_s: float | None = None
        self._service: ServiceFigures | None = None
        self._reread_disk_bytes: int | None = None
        self.counters: dict[str, Counters] = {}

    def shift(self, by_s: float) -> None:
        """Make earlier samples `by_s` seconds earlier, after the stopwatch's zero was moved."""
        self._samples = [replace(s, t_s=round(s.t_s - by_s, 3)) for s in self._samples]
        self._flows = [replace(flow, t_s=round(flow.t_s - by_s, 3)) for flow in self._flows]
        self._returns.shift(by_s)
        self._heard_s -= by_s
        self._sampled_s -= by_s
        self._scanned_s -= by_s

    def course(self) -> VmCourse:
        """Return all measurements."""
        return VmCourse(
            name=self.vm.spec.name,
            ram_bytes=self.vm.spec.ram_bytes,
            samples=tuple(self._samples),
            marks=tuple(self._marks),
            work_s=self.work_s,
            reread_s=self._reread_s,
            reread_disk_bytes=self._reread_disk_bytes,
            needed_bytes=self._needed_bytes,
            before=self.counters["before"],
            after_work=self.counters["after_work"],
            after=self.counters["after"],
            flows=tuple(self._flows),
            again_s=self._again_s,
            service=self._service,
        )

    async def sample_for_ever(self) -> None:
        """Sample each second until cancelled, every tenth time with the guest's own values.

        Raises VmError if the VM ends or its guest hangs.
        """
        self._heard_s = self._sampled_s = self._watch.now_s()
        self.vm.guest.on_sample = self.take_guest_sample
        await self.vm.guest.request("sample", period_s=GUEST_PERIOD_S)
        while True:
            await asyncio.sleep(PERIOD_S / 10)
            if self._failure is not None:
                raise self._failure
            if self._watch.paused:
                continue
            now_s = self._watch.now_s()
            if now_s - self._heard_s > SILENCE_LIMIT_S:
                raise VmError(
                    f"{self.vm.spec.name}: the guest hangs: no sample for {SILENCE_LIMIT_S:.0f} s"
                )
            if now_s - self._sampled_s >= PERIOD_S:
                self._sample(None, None)
            if now_s - self._scanned_s >= SCAN_PERIOD_S:
                self._scan()

    def take_guest_sample(self, event: Event) -> None:
        """Sample the VM on the host at the moment when the guest's own sample arrives."""
        if self._watch.paused:
            return
        memory = parse_guest_sample(event, self.vm.spec.ram_bytes)
        if memory is None:
            return
        self._heard_s = self._watch.now_s()
        self._most_total_bytes = max(self._most_total_bytes, memory.mem_total_bytes)
        used_bytes = used(memory, self.vm.spec.ram_bytes, self._most_total_bytes)
        try:
            self._sample(memory, used_bytes)
        except VmError as error:
            # This is a callback of the link; the error is raised where the samples are awaited.
            self._failure = error
        if self.work_end_s is not None and self._needed_bytes is None:
            # Not from a sample before the end: it still counts the workload's own memory.
            self._needed_bytes = needed_bytes(memory, used_bytes, self._hot_bytes)

    def _sample(self, memory: meminfo.MemInfo | None, used_bytes: int | None) -> None:
        resident = self.vm.resident_bytes()
        cpu = process_cpu(self.vm.pid)
        self._sampled_s = self._watch.now_s()
        self._samples.append(
            CellSample(
                t_s=round(self._sampled_s, 3),
                resident_bytes=resident,
                vmm_user_s=cpu.user_s,
                vmm_system_s=cpu.system_s,
                non_free_bytes=used_bytes,
                cache_bytes=None if memory is None else memory.file_bytes,
            )
        )

    def _scan(self) -> None:
        """Count the pages faulted in and returned since the last scan."""
        self._scanned_s = self._watch.now_s()
        self._flows.append(self._returns.update(self._scanned_s, self._scanner.scan()))

    async def sample_now(self) -> None:
        """Sample now, with the guest's own values. Raises VmError."""
        await self.vm.watch(self.vm.guest.sample_now(), STEP_DEADLINE_S, "a sample")
        self._scan()

    def mark(self, name: MarkName, begin_s: float) -> None:
        """Record a span from `begin_s` until now."""
        self._marks.append(CellMark(name, round(begin_s, 3), round(self._watch.now_s(), 3)))

    async def count(self, moment: str, pids: tuple[int, ...]) -> None:
        """Store the guest's counters of a moment: before, after_work or after. Raises VmError."""
        self.counters[moment] = await read_counters(self.vm, pids)

    async def work(self, words: tuple[str, ...]) -> None:
        """Run the workload in the guest. Raises VmError."""
        begin_s = self._watch.now_s()
        said = await self._bench("run", *words, deadline_s=WORK_DEADLINE_S)
        self.mark("work", begin_s)
        self.work_s = _number(said, "work_s")
        self._hot_bytes = min(int(_number(said, "hot_bytes")), self.vm.spec.ram_bytes)
        self.work_end_s = self._watch.now_s()
        await self.sample_now()

    async def reread(self, words: tuple[str, ...]) -> None:
        """Read the hot set again. Raises VmError."""
        said = await self._bench("reread", *words, deadline_s=STEP_DEADLINE_S)
        self._reread_s = _number(said, "reread_s")
        self._reread_disk_bytes = int(_number(said, "disk_bytes"))
        self._scan()

    async def again(self, words: tuple[str, ...]) -> None:
        """Start the ended processes again. Raises VmError."""
        said = await self._bench("again", *words, deadline_s=WORK_DEADLINE_S)
        self._again_s = _number(said, "again_s")
        self._scan()

    async def report(self, words: tuple[str, ...]) -> None:
        """Request the figures of the service that keeps running. Raises VmError."""
        said = await self._bench("report", *words, deadline_s=STEP_DEADLINE_S)
        self._service = ServiceFigures(
            requests=int(_number(said, "requests")),
            span_s=_number(said, "span_s"),
            p50_s=_number(said, "p50_s"),
            p99_s=_number(said, "p99_s"),
        )

    async def step(self, *words: str) -> None:
        """Run another step of the workload. Raises VmError."""
        await self._bench(*words, deadline_s=STEP_DEADLINE_S)

    async def linger(self, words: tuple[str, ...]) -> None:
        """Start a job that never ends. Raises VmError."""
        command = ("python3", GUEST_LAB, "bench", "linger", *words)
        await self.vm.watch(self.vm.guest.spawn(*command), STEP_DEADLINE_S, "bench linger")

    async def _bench(self, *words: str, deadline_s: float) -> dict[str, object]:
        return await bench_in_guest(self.vm, *words, deadline_s=deadline_s)


async def bench_in_guest(vm: LabVm, *words: str, deadline_s: float) -> dict[str, object]:
    """Run one of the guest's workloads; return its last output, a JSON object. Raises VmError."""
    command = ("python3", GUEST_LAB, "bench", *words)
    what = f"bench {' '.join(words[:2])}"
    done = await vm.watch(vm.guest.exec(*command, timeout_s=deadline_s), deadline_s, what)
    said = parse_object(done.lines[-1] if done.lines else "")
    if done.code != 0 or not said:
        # The last line comes first: it is the error of a traceback, and a caller may cut the rest.
        last = " / ".join(escape_for_terminal(row) for row in reversed(done.lines[-3:]))
        raise VmError(f"{vm.spec.name}: {what} failed in the guest: {last}")
    return said


def parse_guest_sample(event: Event, ram_bytes: int) -> meminfo.MemInfo | None:
    """Parse a sample of the guest's sampler; return None if it is invalid."""
    try:
        memory = meminfo.parse(event["files"]["/proc/meminfo"].encode("ascii", "replace"))
    except (KeyError, AttributeError, TypeError, KernelFileError):
        return None
    sound = 0 <= memory.mem_free_bytes <= memory.mem_total_bytes <= ram_bytes
    return memory if sound else None


def used(memory: meminfo.MemInfo, ram_bytes: int, most_total_bytes: int) -> int:
    """Return the bytes of RAM that the guest neither has free nor has given to a balloon.

    Memory in a balloon leaves MemTotal and is not in MemFree; `most_total_bytes` is the highest
    MemTotal seen.
    """
    ballooned = max(0, most_total_bytes - memory.mem_total_bytes)
    return max(0, ram_bytes - memory.mem_free_bytes - ballooned)


def needed_bytes(memory: meminfo.MemInfo, used_bytes: int, hot_bytes: int) -> int:
    """Return the bytes that a VM needs after its workload: all used but caches and reclaimable slab.

    Its hot set is cache, too, and is needed.
    """
    reclaimable = memory.file_bytes + (memory.s_reclaimable_bytes or 0)
    return max(0, used_bytes - reclaimable + hot_bytes)


def _number(said: dict[str, object], name: str) -> float:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise VmError(f"bench: the guest says {name} {str(value)[:40]!r}: no amount")
    return float(value)
