"""Sample each VM when it is due: the host's side, the guest's side, rarely the VMM."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import structlog

from giveback.accounting.usage import GuestSource, from_balloon
from giveback.errors import VmError
from giveback.guest.host_side import read_host
from giveback.host.budgets import Budget
from giveback.host.process_sample import read_process_sample
from giveback.host.readers.pool import Limits, shared
from giveback.manager.decide import schedule
from giveback.manager.decide.resident_counts import Mappings, base
from giveback.manager.fleet import host_sample
from giveback.vmm.base import Answer, VmState

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from giveback.accounting.usage import HostSnapshot
    from giveback.manager.decide.resident_counts import Counts
    from giveback.manager.devices.fallback import Fallbacks
    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.fleet.urgency import Arbitration
    from giveback.manager.model import Decision, ManagerAction
    from giveback.vmm.mapping import BoundBlock

_VMM_TIMEOUT_S = 2.0
_VMM_AT_ONCE = 8
_READ_AT_ONCE = 32
"""The most VMs whose mappings wait for the reader. One owner may have half of them, so that others do not
wait behind all VMs of one owner."""
_SAMPLES_AT_ONCE = 200
_MAPPINGS_AT_ONCE = 2
"""One reader stays free for new processes while the kernel walks large mappings."""
_MAPPINGS_LIMITS = Limits(wall_s=30.0, cpu_s=20.0)


class Sampler:
    """Samples the fleet. Call `step` a few times a second."""

    def __init__(
        self,
        fleet: Fleet,
        arbitration: Arbitration,
        fallbacks: Fallbacks | None,
        root: str = "/",
    ) -> None:
        self._fleet = fleet
        self._arbitration = arbitration
        self._fallbacks = fallbacks
        self._root = root
        self._readers = shared()
        self._mappings = asyncio.Semaphore(_MAPPINGS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._inspecting = Budget(_VMM_AT_ONCE, _VMM_AT_ONCE // 2)
        self._reading = Budget(_READ_AT_ONCE, _READ_AT_ONCE // 2)
        self._log = structlog.get_logger("giveback.manager.fleet.sampler")

    def step(self, now_s: float) -> None:
        """Sample the VMs that are due; if there are too many, the owners take turns."""
        decision = self._arbitration.decision
        due = [vm for vm in self._fleet if vm.host.due_s <= now_s]
        if len(due) > _SAMPLES_AT_ONCE:
            due.sort(key=lambda vm: vm.host.due_s)
            due = schedule.in_turn(due, [vm.owner for vm in due])[:_SAMPLES_AT_ONCE]
        for vm in due:
            self.sample(vm, now_s, decision)

    def sample(self, vm: Watched, now_s: float, decision: Decision | None) -> None:
        """Sample the host's side now; ask guest and VMM, and step a fallback, if they are due."""
        is_needed = decision is not None and decision.urgency > 0
        part = schedule.spread(_chance())
        falls_back = self._falls_back(vm)
        is_promised = falls_back or vm.request.promise is not None
        wait_s = schedule.host_wait_s(is_needed=is_needed, is_promised=is_promised, part=part)
        vm.host.sample_at(now_s + wait_s)
        if falls_back and not vm.vmm.state.problems:
            vm.vmm.hurry(now_s + schedule.VMM_HOLDS_S)
        self._count(vm, now_s)
        self._arbitration.send_urgency(vm, now_s)
        wait_s = schedule.guest_wait_s(is_needed=is_needed, part=part)
        self._ask_guest(vm, now_s, wait_s)
        self._arbitration.check(vm, now_s)
        if now_s >= vm.vmm.due_s:
            self._inspect(vm, now_s, is_needed=is_needed)
        self._fall_back(vm)

    async def close(self) -> None:
        """Cancel all reads and questions under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The host's side.

    def count(self, vm: Watched) -> None:
        """Read the host's sums when a report has just come, so that both are of one time."""
        self._count(vm, asyncio.get_running_loop().time())

    def _count(self, vm: Watched, now_s: float) -> None:
        counts = host_sample.read_counts(self._root, vm.pid)
        if counts is None:
            vm.errors.add("process cannot be read")
            return
        if vm.host.take(counts, now_s, vm.vmm.ram_bytes):
            vm.changed()
        if vm.host.needs_process(now_s) and vm.host.take_process(
            read_process_sample(self._root, vm.pid), now_s
        ):
            vm.guest.hurry(now_s)
            vm.changed()
        needs = vm.host.needs_mappings(counts, now_s) and vm.vmm.description.ram_blocks
        if needs and self._reading.take(vm.owner):
            vm.host.begin_reading()
            self._run(self._read_mappings(vm, now_s))

    async def _read_mappings(self, vm: Watched, now_s: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._mappings:
                usage, bound, counts, took_s = await self._mappings_of(vm)
        except VmError as error:
            vm.host.refuse_mappings(str(error), now_s)
            vm.errors.add("mappings cannot be read")
        else:
            mappings = Mappings(usage, counts, loop.time(), took_s)
            vm.host.take_mappings(mappings, bound, vm.vmm.ram_bytes)
        finally:
            self._reading.give(vm.owner)
            vm.host.end_reading()
            vm.changed()

    async def _mappings_of(
        self, vm: Watched
    ) -> tuple[HostSnapshot, tuple[BoundBlock, ...], Counts, float]:
        """Return the mappings, the sums at that time, and the seconds it took. Raises VmError."""
        before = host_sample.read_counts(self._root, vm.pid)
        snapshot, bound, took_s = await read_host(
            self._readers, vm.vmm.description, vm.vmm.state, self._root, _MAPPINGS_LIMITS
        )
        after = host_sample.read_counts(self._root, vm.pid)
        if before is None or after is None:
            raise VmError(f"process {vm.pid} has ended")
        return snapshot, bound, base(snapshot, before, after), took_s

    # The guest's side.

    def _ask_guest(self, vm: Watched, now_s: float, wait_s: float) -> None:
        session, guest = vm.channel.session, vm.guest
        if session is None:
            return
        if session.overdue(now_s):
            guest.miss(now_s)
            vm.errors.add("no answer from the agent")
            if guest.had_agent:
                vm.vmm.hurry(now_s)
            vm.changed()
        # Counted since its report, not since the last sample: small changes between samples add up.
        if vm.moved_bytes > schedule.GUEST_MOVED_BYTES and not guest.missed:
            guest.hurry(now_s)
        if now_s >= guest.due_s and session.ask(now_s):
            guest.ask_at(now_s + wait_s)

    # The VMM's side.

    def _inspect(self, vm: Watched, now_s: float, *, is_needed: bool) -> None:
        if vm.vmm.inspecting or not self._inspecting.take(vm.owner):
            return
        vm.vmm.begin_inspection(now_s + _inspection_wait_s(vm, is_needed=is_needed))
        self._run(self._do_inspect(vm))

    async def _do_inspect(self, vm: Watched) -> None:
        try:
            state = await vm.backend.inspect(vm.vmm.description, timeout_s=_VMM_TIMEOUT_S)
        finally:
            vm.vmm.end_inspection()
            self._inspecting.give(vm.owner)
        if self._fleet.vms.get(vm.key) is not vm:
            return
        if not self._fleet.charge(vm, (vm.vmm.description, state)):
            state = VmState(problems=("the answer of its VMM is too large to keep",))
        now_s = asyncio.get_running_loop().time()
        if state.problems and vm.vmm.should_answer:
            vm.errors.add("the VMM does not answer")
        if vm.vmm.take(state, now_s, _chance()):
            vm.host.hurry(now_s)
        statistics = vm.vmm.state.statistics
        if statistics is not None and not vm.hears:
            # Without an agent, balloon statistics are the guest's side.
            report = from_balloon(statistics, time.time())
            if report.source is not GuestSource.NONE:
                vm.guest.take_report(report, now_s)
        vm.changed()
        self._fall_back(vm)

    # The fallback.

    def _falls_back(self, vm: Watched) -> bool:
        """Return whether a device holds memory of the VM, or is to take some now."""
        if self._fallbacks is None or not vm.settings.may_fall_back:
            return False
        return (vm.request.device_bytes > 0 and not vm.hears) or self._fallbacks.holds(
            vm.vmm.description
        )

    def _fall_back(self, vm: Watched) -> None:
        if self._fallbacks is None or not vm.settings.may_fall_back or vm.request.device_at_work:
            return
        if self._fleet.vms.get(vm.key) is not vm:
            return
        vm.request.start_device()
        self._run(self._do_fall_back(vm, self._fallbacks))

    async def _do_fall_back(self, vm: Watched, fallbacks: Fallbacks) -> None:
        loop, request, vmm = asyncio.get_running_loop(), vm.request, vm.vmm
        try:
            guest = vm.observation(loop.time()).guest
            decision = self._arbitration.decision
            is_wanted = request.device_bytes > 0 or (decision is not None and decision.urgency > 0)
            action: ManagerAction | None
            if is_wanted and not vm.hears:
                action = await fallbacks.step(
                    vmm.description, vmm.state, guest, request.device_bytes, vm.settings
                )
            else:
                action = await fallbacks.ease(vmm.description, vmm.state, guest, vm.settings)
            if action is not None:
                request.take_by_device(action.expected_bytes)
                self._arbitration.take_done(vm, action, loop.time())
                vmm.hurry(loop.time() + schedule.VMM_AFTER_STEP_S)
        finally:
            request.end_device()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fleet.errors.add("internal error")
            self._log.error("internal error", exc_info=task.exception())


def _inspection_wait_s(vm: Watched, *, is_needed: bool) -> float:
    return schedule.inspection_wait_s(
        is_needed=is_needed,
        may_fall_back=vm.settings.may_fall_back,
        had_agent=vm.guest.had_agent,
        missed=vm.guest.missed,
        tells_statistics=vm.vmm.description.capabilities.statistics is not Answer.NO,
        has_channel=vm.vmm.agent_channel is not None,
    )


def _chance() -> float:
    return os.urandom(1)[0] / 256
