"""Take memory by a device from guests that cannot report free pages, under a lease on disk.

Each lease is written to disk before the device is set. The next start releases leases that a killed manager
left. Memory is taken only if the settings ask for it, in small steps, from guests whose own numbers are
fresh. It is released at once if the guest runs short. docs/fallbacks.md has the rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from giveback.errors import VmError
from giveback.host.procs import start_ticks
from giveback.manager.devices import rules
from giveback.manager.devices.leases import LeaseStore, file_name
from giveback.manager.model import ActionKind, Lease, ManagerAction
from giveback.vmm.backends.libvirt import URI
from giveback.vmm.base import key_of
from giveback.vmm.control.address import control_at, control_of
from giveback.vmm.control.devices import STATISTICS_PERIOD_S
from giveback_kernel.errors import GivebackError
from giveback_kernel.units import MIB, size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from giveback.accounting.usage import GuestSnapshot
    from giveback.vmm.base import VmDescription, VmState
    from giveback.vmm.control.devices import Control, Devices

RETRY_S = 5.0
"""Seconds until a device that could not be set is set again."""
FORGET_S = 300.0
_AT_ONCE = 32
_TOLERANCE_BYTES = 16 * MIB
_PAGES_BYTES = 1 * MIB
"""The balloon's granule here: every VMM accepts whole MiB."""


class Wanted(Protocol):
    """The settings of a VM that this module uses; `settings.load.VmSettings` implements it."""

    @property
    def floor_bytes(self) -> int:
        """The VM is not taken below this."""
        ...

    @property
    def balloon(self) -> bool:
        """Whether its balloon may be used."""
        ...

    @property
    def virtio_mem(self) -> bool:
        """Whether its virtio-mem devices may be used."""
        ...

    @property
    def although_reports(self) -> bool:
        """Whether devices may be used even if the guest reports free pages."""
        ...


@dataclass(slots=True)
class _Held:
    """A lease that is on disk. `why_release` is why it must be released; "" if it need not."""

    lease: Lease
    since_s: float
    why_release: str = ""
    tried_at_s: float | None = None


@dataclass(slots=True)
class _Vm:
    """The state of one VM from which the settings allow devices to take."""

    seen_at_s: float
    watch: rules.Watch = field(default_factory=rules.Watch)
    problem: str = ""
    polls: bool = False
    polled_at_s: float | None = None
    settled_at_s: float | None = None
    """The time of the last step whose result was checked."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The device to use: its target for the guest (`now_bytes`), and what the guest has (`reached_bytes`)."""

    device: ActionKind
    device_id: str
    now_bytes: int
    reached_bytes: int
    granule_bytes: int
    most_bytes: int = 0


class Fallbacks:
    """All leases of one manager. No method raises VmError; `problems` has the failures."""

    def __init__(
        self,
        state_folder: Path,
        *,
        root: str = "/",
        libvirt_uri: str = URI,
        clock: Callable[[], float] = time.monotonic,
        next_id: Callable[[], int] | None = None,
    ) -> None:
        """Keep the leases as files in `state_folder`, which is created if it is missing.

        `next_id` numbers the actions; pass the manager's own. The actions have urgency 0.
        """
        self._root = root
        self._uri = libvirt_uri
        self._clock = clock
        self._next_id = next_id or itertools.count(1).__next__
        self._store = LeaseStore(state_folder, root)
        self._held: dict[str, _Held] = {}
        self._vms: dict[str, _Vm] = {}
        self._unreadable: tuple[str, ...] = ()
        self._is_loaded = False
        self._is_ending = False
        self._pruned_at_s = clock()

    @property
    def problems(self) -> tuple[str, ...]:
        """The present problems, such as a lease that cannot be released because another has the monitor."""
        return (*self._unreadable, *(vm.problem for vm in self._vms.values() if vm.problem))

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases of VMs that run."""
        return tuple(held.lease for held in self._held.values() if self._lives(held.lease))

    def holds(self, vm: VmDescription) -> bool:
        """Return whether there is a lease of this VM: then it must be sampled often."""
        return bool(self._of(key_of(vm)))

    async def recover(self) -> tuple[ManagerAction, ...]:
        """Release leases that a killed manager left, and retry releases that failed.

        Call it at the start, before anything else, and then about every ten seconds. A release fails while
        another program has the VM's monitor.
        """
        if not self._is_loaded:
            self._is_loaded = True
            found, self._unreadable = await asyncio.to_thread(self._store.load)
            for lease in found:
                why = "the manager that took it has ended"
                self._held.setdefault(file_name(lease), _Held(lease, self._clock(), why))
        now_s = self._clock()
        self._prune(now_s)
        for held in self._held.values():
            unseen_s = now_s - max(self._vm(held.lease.vm).seen_at_s, held.since_s)
            if not held.why_release and unseen_s > rules.STALE_S:
                held.why_release = "the VM is no longer sampled"
        done: list[ManagerAction] = []
        await self._release_due(done)
        return tuple(done)

    async def release_all(self, deadline_s: float) -> tuple[ManagerAction, ...]:
        """Release all leases concurrently within `deadline_s` seconds; those that fail stay on disk.

        Nothing is taken from now on. A step under way ends first, and its memory is released too.
        """
        self._is_ending = True
        done: list[ManagerAction] = []
        few = asyncio.Semaphore(_AT_ONCE)

        async def one(key: str) -> None:
            async with few, self._vm(key).lock:
                for held in self._of(key):
                    held.why_release = held.why_release or "the manager stops"
                    action = await self._release(held, held.why_release)
                    if action is not None:
                        done.append(action)

        keys = self._vms.keys() | {held.lease.vm for held in self._held.values()}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*map(one, keys))
        return tuple(done)

    async def _release_due(self, done: list[ManagerAction]) -> None:
        """Release every lease that is due, concurrently; append each action to `done`."""
        few = asyncio.Semaphore(_AT_ONCE)

        async def one(held: _Held) -> None:
            async with few, self._vm(held.lease.vm).lock:
                action = await self._release(held, held.why_release)
            if action is not None:
                done.append(action)

        due = [held for held in list(self._held.values()) if self._is_due(held)]
        await asyncio.gather(*map(one, due))

    async def ease(
        self, vm: VmDescription, state: VmState, guest: GuestSnapshot, settings: Wanted
    ) -> ManagerAction | None:
        """Release the VM's leases if the guest runs short, its numbers froze, or no request needs them.

        Call it at every sample of a VM that has a lease, or from which the settings allow devices to take.
        The first call also enables balloon statistics: they must change before anything is taken. If it is
        not called for a VM, `recover` releases that VM's leases.
        """
        key = key_of(vm)
        known = self._vm(key)
        async with known.lock:
            eased = await self._ease(key, known, state, guest)
            barred = rules.barred(vm, state, although_reports=settings.although_reports)
            if eased is None and not known.polls and not barred:
                try:
                    await self._ask_for_statistics(vm, known)
                except GivebackError as error:
                    known.problem = str(error)
            return eased

    async def step(
        self,
        vm: VmDescription,
        state: VmState,
        guest: GuestSnapshot,
        goal_bytes: int,
        settings: Wanted,
    ) -> ManagerAction | None:
        """Take one small step towards `goal_bytes` more, if the rules allow it.

        Return the action; None if nothing was taken. It does what `ease` does first. A goal of 0 keeps the
        leases; a lease without calls for 120 s is released.
        """
        if not (settings.balloon or settings.virtio_mem):
            return await self.ease(vm, state, guest, settings)
        key = key_of(vm)
        known = self._vm(key)
        async with known.lock:
            eased = await self._ease(key, known, state, guest)
            barred = rules.barred(vm, state, although_reports=settings.although_reports)
            if eased is not None or barred:
                return eased
            try:
                await self._ask_for_statistics(vm, known)
                known.watch = rules.wanted(known.watch, self._clock())
                if any(held.why_release for held in self._of(key)):
                    return None
                if goal_bytes <= 0 and not self._should_have_given(key, known):
                    return None
                return await self._step(vm, known, goal_bytes, settings)
            except GivebackError as error:
                known.problem = str(error)
                return None

    def _should_have_given(self, key: str, known: _Vm) -> bool:
        """Return whether the guest has had its time for the last step; True once for each step."""
        stepped_at_s = known.watch.stepped_at_s
        if not self._of(key) or stepped_at_s == known.settled_at_s:
            return False
        if not rules.is_stuck(known.watch, self._clock()):
            return False
        known.settled_at_s = stepped_at_s
        return True

    async def _ask_for_statistics(self, vm: VmDescription, known: _Vm) -> None:
        """Enable balloon statistics, without which nothing is taken; retry after RETRY_S if that failed."""
        now_s = self._clock()
        recently = known.polled_at_s is not None and now_s - known.polled_at_s < RETRY_S
        if known.polls or recently:
            return
        known.polled_at_s = now_s
        control = control_of(vm, self._uri)
        devices = await control.devices()
        if devices.balloon is not None and devices.statistics_period_s == 0:
            await control.set_statistics_period(STATISTICS_PERIOD_S)
        known.polls, known.problem = True, ""

    async def _step(
        self, vm: VmDescription, known: _Vm, goal_bytes: int, settings: Wanted
    ) -> ManagerAction | None:
        numbers = known.watch.numbers
        if numbers is None or rules.not_yet(known.watch, self._clock()):
            return None
        control = control_of(vm, self._uri)
        devices = await control.devices()
        known.problem = ""
        choice = _choice(devices, settings, rules.STEP_LEAST_BYTES)
        if choice is None:
            return None
        held = self._find(key_of(vm), choice)
        if held is not None and choice.device is ActionKind.BALLOON:
            # No VMM reports its balloon's target.
            target_bytes = min(held.lease.target_bytes, choice.now_bytes)
            choice = replace(choice, now_bytes=target_bytes)
        if choice.reached_bytes > choice.now_bytes + _TOLERANCE_BYTES:
            return None if held is None else await self._give_up(known, control, held, choice)
        is_balloon = choice.device is ActionKind.BALLOON
        taken = rules.step_bytes(
            numbers,
            size_bytes=choice.now_bytes if is_balloon else numbers.total_bytes,
            goal_bytes=goal_bytes,
            floor_bytes=settings.floor_bytes,
            most_bytes=choice.now_bytes,
            granule_bytes=choice.granule_bytes,
        )
        if taken == 0:
            return None
        return await self._take(vm, known, control, choice, taken)

    async def _take(
        self, vm: VmDescription, known: _Vm, control: Control, choice: _Choice, taken_bytes: int
    ) -> ManagerAction | None:
        """Write the lease, then set the device. Raises GivebackError; the lease is then released."""
        ticks = start_ticks(self._root, vm.pid)
        if ticks is None or self._is_ending:
            return None
        held = self._find(key_of(vm), choice)
        target = choice.now_bytes - taken_bytes
        lease = Lease(
            vm=key_of(vm),
            pid=vm.pid,
            start_ticks=ticks,
            device=choice.device,
            control=control.address,
            before_bytes=choice.now_bytes if held is None else held.lease.before_bytes,
            target_bytes=target,
            wall_s=time.time(),
            device_id=choice.device_id,
            most_bytes=choice.most_bytes if held is None else held.lease.most_bytes,
        )
        await asyncio.to_thread(self._store.put, lease)
        if held is None:
            held = self._held[file_name(lease)] = _Held(lease, self._clock())
        held.lease = lease
        try:
            await _set_device(control, lease, target)
        except VmError as error:
            # The device may have been set all the same.
            held.why_release = f"the device did not answer ({error})"
            held.tried_at_s = self._clock()
            raise
        known.watch = rules.stepped(known.watch, self._clock())
        before = size(lease.before_bytes)
        reason = f"{choice.device.value}: {size(target)} left of {before}, in small steps"
        return self._action(vm.name, choice.device, taken_bytes, reason)

    async def _give_up(
        self, known: _Vm, control: Control, held: _Held, choice: _Choice
    ) -> ManagerAction | None:
        """Raise the target to what the guest kept, if it does not return what the last step asked for."""
        if not rules.is_stuck(known.watch, self._clock()):
            return None
        lease = replace(held.lease, target_bytes=min(choice.reached_bytes, held.lease.before_bytes))
        # The device first: a lease may record more memory than is held, but never less.
        await _set_device(control, lease, lease.target_bytes)
        held.lease = lease
        await asyncio.to_thread(self._store.put, lease)
        now_s = self._clock()
        known.watch = replace(rules.stepped(known.watch, now_s), pressed_at_s=now_s)
        kept = size(choice.reached_bytes)
        reason = f"{lease.device.value}: the guest keeps {kept}, so its target is raised to that"
        return self._action(lease.vm, ActionKind.DEFLATE, 0, reason)

    async def _ease(
        self, key: str, known: _Vm, state: VmState, guest: GuestSnapshot
    ) -> ManagerAction | None:
        now_s = known.seen_at_s = self._clock()
        numbers = rules.numbers_of(state, guest, now_s, time.time())
        known.watch = rules.noted(known.watch, numbers, now_s)
        action = None
        for held in self._of(key):
            if not held.why_release:
                held.why_release = rules.must_release(known.watch, held.since_s, now_s)
            if self._is_due(held):
                action = await self._release(held, held.why_release) or action
        return action

    async def _release(self, held: _Held, why: str) -> ManagerAction | None:
        """Return a lease's memory to the guest, then forget the lease.

        A failure becomes a problem, and is retried.
        """
        lease = held.lease
        if self._held.get(file_name(lease)) is not held:
            return None
        known = self._vm(lease.vm)
        held.tried_at_s = self._clock()
        try:
            if self._lives(lease):
                control = control_at(lease.control, lease.pid)
                await _set_device(control, lease, await _all_of(control, lease))
            await asyncio.to_thread(self._store.drop, lease)
        except GivebackError as error:
            if self._lives(lease):
                taken = size(lease.before_bytes - lease.target_bytes)
                known.problem = f"{taken} of {lease.vm} cannot be given back yet: {error}"
                return None
        self._held.pop(file_name(lease), None)
        known.problem = ""
        if not self._lives(lease):
            return None
        return self._action(lease.vm, ActionKind.DEFLATE, 0, f"given back: {why}")

    def _action(self, vm: str, kind: ActionKind, expected_bytes: int, reason: str) -> ManagerAction:
        return ManagerAction(
            id=self._next_id(),
            wall_s=time.time(),
            vm=vm,
            kind=kind,
            urgency=0,
            expected_bytes=expected_bytes,
            reason=reason,
        )

    def _lives(self, lease: Lease) -> bool:
        """Return whether the lease's VM still runs: its PID may be another process's by now."""
        return start_ticks(self._root, lease.pid) == lease.start_ticks

    def _is_due(self, held: _Held) -> bool:
        if not self._lives(held.lease):
            return True
        waited = held.tried_at_s is None or self._clock() - held.tried_at_s >= RETRY_S
        return bool(held.why_release) and waited

    def _of(self, key: str) -> list[_Held]:
        return [held for held in self._held.values() if held.lease.vm == key]

    def _find(self, key: str, choice: _Choice) -> _Held | None:
        return next((held for held in self._of(key) if _is_of(held.lease, choice)), None)

    def _vm(self, key: str) -> _Vm:
        return self._vms.setdefault(key, _Vm(self._clock()))

    def _prune(self, now_s: float) -> None:
        """Forget VMs without a lease that were not sampled for FORGET_S."""
        if now_s - self._pruned_at_s < FORGET_S / 5:
            return
        self._pruned_at_s = now_s
        holding = {held.lease.vm for held in self._held.values()}
        for key, known in list(self._vms.items()):
            if now_s - known.seen_at_s > FORGET_S and key not in holding:
                del self._vms[key]


def _choice(devices: Devices, settings: Wanted, least_bytes: int) -> _Choice | None:
    """Return the device to use; virtio-mem first, because a guest cannot take back what it unplugged."""
    if settings.virtio_mem:
        for device in devices.virtio_mem:
            if device.requested_bytes >= max(least_bytes, device.block_bytes):
                return _Choice(
                    ActionKind.VIRTIO_MEM,
                    device.id,
                    device.requested_bytes,
                    device.plugged_bytes,
                    device.block_bytes,
                )
    if settings.balloon and devices.balloon is not None:
        kept = devices.balloon.kept_bytes
        most = devices.balloon.most_bytes
        return _Choice(ActionKind.BALLOON, "", kept, kept, _PAGES_BYTES, most)
    return None


def _is_of(lease: Lease, choice: _Choice) -> bool:
    return (lease.device, lease.device_id) == (choice.device, choice.device_id)


async def _all_of(control: Control, lease: Lease) -> int:
    """Return the bytes that the guest had before the lease, plus memory that was plugged in since."""
    if not lease.most_bytes:
        return lease.before_bytes
    balloon = (await control.devices()).balloon
    plugged = 0 if balloon is None else balloon.most_bytes - lease.most_bytes
    return lease.before_bytes + max(0, plugged)


async def _set_device(control: Control, lease: Lease, value_bytes: int) -> None:
    if lease.device is ActionKind.BALLOON:
        await control.set_balloon(value_bytes)
    else:
        await control.set_virtio_mem(lease.device_id, value_bytes)
