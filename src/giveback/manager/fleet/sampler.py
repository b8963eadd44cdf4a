"""Looks at each VM when its time has come: the host's side, the guest's, rarely the VMM's."""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from giveback.accounting.usage import Source, from_balloon
from giveback.errors import VmError
from giveback.guest.observe import read_host
from giveback.manager.fleet import resident_counts
from giveback.vmm.base import Answer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from giveback.accounting.usage import HostPicture
    from giveback.manager.devices.fallback import Fallbacks
    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.fleet.urgency import Asking
    from giveback.manager.model import Action, Decision
    from giveback.vmm.base import VmDescription, VmState
    from giveback.vmm.mapping import BoundBlock

HOST_CALM_S, HOST_NEEDED_S, HOST_PROMISED_S = 8.0, 3.0, 1.0
GUEST_CALM_S, GUEST_NEEDED_S = 20.0, 5.0
"""An answer costs the guest a process of some milliseconds: the ledger takes it for 60 s."""
_VMM_CALM_S, _VMM_SILENT_S, _VMM_TELLS_ALL_S = 600.0, 15.0, 20.0
_VMM_NO_PORT_S = 60.0
"""`giveback enable --agent-port` may have plugged one in."""
_VMM_HOLDS_S = 2.0
"""Of a VM that a device has taken from, or is to: a guest that runs short gets it back at once."""
_VMM_TIMEOUT_S = 2.0
_VMM_AT_ONCE = 8
_UNREADABLE_AGAIN_S = 60.0
_LOOKS_AT_ONCE = 200
_GUEST_MOVED_BYTES = 64 << 20
_SILENT_BACKOFF_S = 120.0


class Looking:
    """Samples the fleet. `step` is to be called a few times a second."""

    def __init__(
        self, fleet: Fleet, asking: Asking, fallbacks: Fallbacks | None, root: str = "/"
    ) -> None:
        self._fleet = fleet
        self._asking = asking
        self._fallbacks = fallbacks
        self._root = root
        # One thread: the kernel walks page tables without Python's lock, and the loop goes on.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="mappings")
        self._tasks: set[asyncio.Task[None]] = set()
        self._inspecting = 0
        self._log = structlog.get_logger("giveback.looking")

    def step(self, now_s: float) -> None:
        """Look at those whose time has come: where there are too many, at who has waited longest."""
        decision = self._asking.decision
        due = [vm for vm in self._fleet if vm.due_s <= now_s]
        if len(due) > _LOOKS_AT_ONCE:
            due = heapq.nsmallest(_LOOKS_AT_ONCE, due, key=lambda vm: vm.due_s)
        for vm in due:
            self.look(vm, now_s, decision)

    def look(self, vm: Watched, now_s: float, decision: Decision | None) -> None:
        """The host's side now; the guest's, the VMM's and a fallback where they are due."""
        needed = decision is not None and decision.urgency > 0
        # Spread over a fifth of the period, so that VMs which came together part.
        spread = 0.8 + 0.2 * os.urandom(1)[0] / 256
        period_s = HOST_NEEDED_S if needed else HOST_CALM_S
        falls_back = self._falls_back(vm)
        often = falls_back or vm.promise is not None
        vm.due_s = now_s + (HOST_PROMISED_S if often else period_s * spread)
        if falls_back and not vm.state.problems:
            vm.inspect_at_s = min(vm.inspect_at_s, now_s + _VMM_HOLDS_S)
        moved = self._count(vm, now_s)
        self._asking.tell(vm, now_s)
        self._ask_guest(vm, now_s, needed=needed, moved=moved, spread=spread)
        self._asking.check(vm, now_s)
        if now_s >= vm.inspect_at_s:
            self._inspect(vm, now_s, needed=needed)
        self._fall_back(vm)

    async def close(self) -> None:
        """Wait for nothing that is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reader.shutdown(wait=False, cancel_futures=True)

    # The host's side.

    def count(self, vm: Watched) -> None:
        """Read the sums beside the guest's picture that has just come: both are of one moment."""
        self._count(vm, asyncio.get_running_loop().time())

    def _count(self, vm: Watched, now_s: float) -> int:
        """Read the sums; by how much resident memory has moved since the last time."""
        counts = resident_counts.read_counts(self._root, vm.pid)
        if counts is None:
            vm.errors.add("process cannot be read")
            return 0
        before = vm.counts
        vm.counts, vm.sampled_at_s = counts, now_s
        if vm.mappings is not None and counts != before:
            vm.host = resident_counts.carried(vm.mappings, counts, vm.ram_bytes)
            vm.changed()
        due = resident_counts.must_read_mappings(vm.mappings, counts, now_s)
        if due and not vm.reading and now_s >= vm.unreadable_until_s and vm.vm.ram_blocks:
            vm.reading = True
            self._run(self._read_mappings(vm, now_s))
        return abs(counts.resident_bytes - before.resident_bytes) if before else 0

    async def _read_mappings(self, vm: Watched, now_s: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            picture, bound, counts, took_s = await loop.run_in_executor(
                self._reader, _mappings_of, vm.vm, vm.state, self._root
            )
        except VmError as error:
            vm.unreadable = str(error)
            vm.unreadable_until_s = now_s + _UNREADABLE_AGAIN_S
            vm.errors.add("mappings cannot be read")
        else:
            vm.unreadable = ""
            vm.bound = bound
            vm.mappings = resident_counts.Mappings(picture, counts, loop.time(), took_s)
            # The sums may have been read again while the thread was at it.
            vm.host = resident_counts.carried(vm.mappings, vm.counts or counts, vm.ram_bytes)
        finally:
            vm.reading = False
            vm.changed()

    # The guest's side.

    def _ask_guest(
        self, vm: Watched, now_s: float, *, needed: bool, moved: int, spread: float
    ) -> None:
        session = vm.session
        if session is None:
            return
        if session.overdue(now_s):
            vm.missed += 1
            vm.errors.add("no answer from the agent")
            vm.guest_due_s = now_s + min(_SILENT_BACKOFF_S, GUEST_CALM_S * vm.missed)
            if vm.had_agent:
                vm.inspect_at_s = min(vm.inspect_at_s, now_s)
            vm.changed()
        period_s = GUEST_NEEDED_S if needed else GUEST_CALM_S
        if moved > _GUEST_MOVED_BYTES and not vm.missed:
            vm.guest_due_s = min(vm.guest_due_s, now_s)
        if now_s >= vm.guest_due_s and session.ask(now_s):
            vm.guest_due_s = now_s + period_s * spread

    # The VMM's side.

    def _inspect(self, vm: Watched, now_s: float, *, needed: bool) -> None:
        if vm.inspecting or self._inspecting >= _VMM_AT_ONCE:
            return
        vm.inspecting = True
        vm.inspect_at_s = now_s + self._inspect_period_s(vm, needed=needed)
        self._inspecting += 1
        self._run(self._do_inspect(vm))

    def _inspect_period_s(self, vm: Watched, *, needed: bool) -> float:
        if vm.settings.may_fall_back:
            return GUEST_NEEDED_S if needed else _VMM_TELLS_ALL_S
        if vm.had_agent:
            return _VMM_SILENT_S if vm.missed >= 2 else _VMM_CALM_S
        # Without an agent its balloon statistics are the only word of the guest.
        if vm.vm.capabilities.statistics is not Answer.NO:
            return _VMM_TELLS_ALL_S
        return _VMM_CALM_S if vm.channel is not None else _VMM_NO_PORT_S

    async def _do_inspect(self, vm: Watched) -> None:
        try:
            state = await vm.backend.inspect(vm.vm, timeout_s=_VMM_TIMEOUT_S)
        finally:
            vm.inspecting = False
            self._inspecting -= 1
        loop = asyncio.get_running_loop()
        vm.inspected_at_s = loop.time()
        if state.problems:
            # A QEMU without a monitor has nothing that could answer.
            if vm.vm.control or vm.vm.backend != "qemu":
                vm.errors.add("the VMM does not answer")
            # What it said before still tells more than nothing.
            state = replace(vm.state, problems=state.problems)
            vm.inspect_at_s = vm.inspected_at_s + vm.monitor.wait_s(os.urandom(1)[0] / 256)
        else:
            vm.monitor.reset()
        vm.state = state
        if state.description is not None and state.description != vm.vm:
            vm.describe(state.description)
            vm.due_s = min(vm.due_s, vm.inspected_at_s)
        if state.statistics is not None and not vm.hears:
            self._take_statistics(vm)
        vm.changed()
        self._fall_back(vm)

    def _take_statistics(self, vm: Watched) -> None:
        """The guest's side by the balloon, where no agent tells it."""
        if vm.state.statistics is None:
            return
        guest = from_balloon(vm.state.statistics, time.time())
        if guest.source is not Source.NONE:
            vm.guest, vm.guest_at_s = guest, asyncio.get_running_loop().time()

    # The fallback.

    def _falls_back(self, vm: Watched) -> bool:
        """Whether a device has taken from it, or is to take now."""
        if self._fallbacks is None or not vm.settings.may_fall_back:
            return False
        return (vm.goal > 0 and not vm.hears) or self._fallbacks.holds(vm.vm)

    def _fall_back(self, vm: Watched) -> None:
        if vm.falling_back or self._fallbacks is None or not vm.settings.may_fall_back:
            return
        if self._fleet.vms.get(vm.key) is not vm:
            return
        vm.falling_back = True
        self._run(self._do_fall_back(vm, self._fallbacks))

    async def _do_fall_back(self, vm: Watched, fallbacks: Fallbacks) -> None:
        loop = asyncio.get_running_loop()
        try:
            guest = vm.observation(loop.time()).guest
            decision = self._asking.decision
            is_wanted = vm.goal > 0 or (decision is not None and decision.urgency > 0)
            action: Action | None
            if is_wanted and not vm.hears:
                action = await fallbacks.step(vm.vm, vm.state, guest, vm.goal, vm.settings)
            else:
                action = await fallbacks.ease(vm.vm, vm.state, guest, vm.settings)
            if action is not None:
                # What is taken is asked for no more, until the arbiter asks anew.
                vm.goal = max(0, vm.goal - action.expected_bytes)
                self._asking.take_done(vm, action, loop.time())
                vm.inspect_at_s = min(vm.inspect_at_s, loop.time() + 1.0)
        finally:
            vm.falling_back = False

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fleet.errors.add("internal error")
            self._log.error("internal error", exc_info=task.exception())


def _mappings_of(
    vm: VmDescription, state: VmState, root: str
) -> tuple[HostPicture, tuple[BoundBlock, ...], resident_counts.Counts, float]:
    """The mappings, the sums of that moment, and what it took. Run in a thread of its own."""
    started_s = time.monotonic()
    before = resident_counts.read_counts(root, vm.pid)
    picture, bound = read_host(vm, state, root)
    after = resident_counts.read_counts(root, vm.pid)
    if before is None or after is None:
        raise VmError(f"process {vm.pid} has ended")
    counts = resident_counts.base(picture, before, after)
    return picture, bound, counts, time.monotonic() - started_s
