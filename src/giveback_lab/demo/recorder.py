"""Record one VM: resident bytes measured on the host, the guest's samples, marks and phases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from giveback.errors import VmError
from giveback.guest.protocol import parse_object
from giveback_kernel import buddyinfo, meminfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.report.run import MarkKind, RunMark, RunSample, VmName, VmRun, WorkPhase
from giveback_lab.vms.agent_port import agent_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback.guest.protocol import StepEvent
    from giveback_lab.vms.guest_link import Event
    from giveback_lab.vms.vm import LabVm

PERIOD_S = 1.0
# A guest without an event for this long hangs: its sampler needs 1 ms a second.
SILENCE_LIMIT_S = 45.0
# More than the agent or the workload of a demo ever prints: a hostile guest must not fill the
# host's memory.
MOST_MARKS = 5_000
MOST_PHASES = 200
NAME_LIMIT = 40


@dataclass(slots=True)
class GuestMemory:
    """The guest's last sample and its time of arrival (host monotonic seconds)."""

    at_s: float
    meminfo: meminfo.MemInfo
    buddy: buddyinfo.BuddyInfo


@dataclass(slots=True)
class GuestRecorder:
    """Collect a VmRun; `origin_s` is the host's monotonic time that counts as 0."""

    vm: LabVm
    name: VmName
    description: str
    origin_s: float
    samples: list[RunSample] = field(default_factory=list)
    marks: list[RunMark] = field(default_factory=list)
    phases: list[WorkPhase] = field(default_factory=list)
    dmesg: tuple[str, ...] = ()
    work_start_s: float = 0.0
    work_end_s: float | None = None
    hot_bytes: int = 0
    needed_bytes: int | None = None
    report_order: int = 9
    silence_limit_s: float = SILENCE_LIMIT_S
    on_change: Callable[[], None] = lambda: None
    view: GuestMemory | None = None
    sampling_since_s: float = field(default_factory=time.monotonic)

    def now_s(self) -> float:
        """Return the seconds since the origin."""
        return time.monotonic() - self.origin_s

    def run(self) -> VmRun:
        """Return the run as recorded so far."""
        return VmRun(
            name=self.name,
            description=self.description,
            ram_bytes=self.vm.spec.ram_bytes,
            samples=tuple(self.samples),
            marks=tuple(self.marks),
            work_start_s=self.work_start_s,
            work_end_s=self.work_end_s,
            needed_bytes=self.needed_bytes,
            work_phases=tuple(self.phases),
            dmesg=self.dmesg,
        )

    def take_guest_sample(self, event: Event) -> None:
        """Keep a sample of the guest's sampler; leave out one that is not valid."""
        try:
            files = event["files"]
            memory = meminfo.parse(files["/proc/meminfo"].encode("ascii", "replace"))
            buddy = buddyinfo.parse(files["/proc/buddyinfo"].encode("ascii", "replace"))
        except (KeyError, AttributeError, TypeError, KernelFileError):
            return
        if not memory.mem_free_bytes <= memory.mem_total_bytes <= self.vm.spec.ram_bytes:
            return
        self.view = GuestMemory(time.monotonic(), memory, buddy)
        if self.work_end_s is not None and self.needed_bytes is None:
            # Not from the sample before the end: it still counts the workload's own memory.
            self._settle_needed()

    def sample(self) -> None:
        """Measure resident bytes now, and add the guest's sample if it is fresh. Raises VmError."""
        resident = self.vm.resident_bytes()
        now = time.monotonic()
        view = self.view
        silent_s = now - (self.sampling_since_s if view is None else view.at_s)
        if silent_s > self.silence_limit_s:
            raise VmError(
                f"{self.name}: the guest hangs: no sample for {self.silence_limit_s:.0f} s"
            )
        if view is None or now - view.at_s > 3 * PERIOD_S:
            self.samples.append(RunSample(now - self.origin_s, resident))
        else:
            self.samples.append(self._joined(now - self.origin_s, resident, view))
        self.on_change()

    def _joined(self, t_s: float, resident_bytes: int, view: GuestMemory) -> RunSample:
        memory = view.meminfo
        return RunSample(
            t_s=t_s,
            resident_bytes=resident_bytes,
            non_free_bytes=memory.mem_total_bytes - memory.mem_free_bytes,
            reserved_bytes=self.vm.spec.ram_bytes - memory.mem_total_bytes,
            reportable_bytes=buddyinfo.reportable_bytes(view.buddy, self.report_order),
            trapped_bytes=buddyinfo.trapped_bytes(view.buddy, self.report_order),
            cache_bytes=memory.file_bytes,
        )

    async def sample_for_ever(self) -> None:
        """Sample each second until cancelled. Raises VmError if the VM ends or hangs."""
        self.sampling_since_s = time.monotonic()
        self.vm.guest.on_sample = self.take_guest_sample
        await self.vm.guest.request("sample", period_s=PERIOD_S)
        due = time.monotonic()
        while True:
            self.sample()
            due = max(due + PERIOD_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def mark_for_ever(self) -> None:
        """Turn the agent's steps into marks until the VM ends."""
        async for event in agent_events(self.vm.agent_socket):
            self.mark(event)

    def mark(self, event: StepEvent) -> None:
        """Keep one step of the agent as a mark, if the charts know its kind."""
        for kind in get_args(MarkKind):
            if event.step == kind and len(self.marks) < MOST_MARKS:
                self.marks.append(RunMark(self.now_s(), self.name, kind, event.text or kind))

    def take_work_line(self, line: str) -> None:
        """Follow the workload's output lines: its phases and its end."""
        said = parse_object(line)
        if not said or len(self.phases) > MOST_PHASES:
            return
        now = self.now_s()
        if self.phases and self.phases[-1].end_s is None:
            last = self.phases.pop()
            self.phases.append(WorkPhase(last.name, last.start_s, now))
        if "phase" in said:
            self.phases.append(
                WorkPhase(escape_for_terminal(str(said["phase"]), NAME_LIMIT), now, None)
            )
        if said.get("done"):
            self.work_end_s = now
            hot_bytes = said.get("hot_bytes")
            if isinstance(hot_bytes, int):
                self.hot_bytes = min(max(0, hot_bytes), self.vm.spec.ram_bytes)

    def _settle_needed(self) -> None:
        """Set the bytes that the VM needs after its workload: all but free memory and cold caches."""
        if self.view is None:
            return
        memory = self.view.meminfo
        reserved = self.vm.spec.ram_bytes - memory.mem_total_bytes
        non_free = memory.mem_total_bytes - memory.mem_free_bytes
        reclaimable = memory.file_bytes + (memory.s_reclaimable_bytes or 0)
        self.needed_bytes = max(0, reserved + non_free - reclaimable + self.hot_bytes)
