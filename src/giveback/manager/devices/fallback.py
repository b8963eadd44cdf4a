"""Fallbacks for guests that cannot report: memory taken by a device, under a lease on disk.

Every inflation is written to disk before the device is told, and what a killed manager left is let go
of at the next start. Taken only where the settings ask for it, in small steps, from guests whose own
numbers are fresh; let go of at once where the guest runs short. docs/fallbacks.md has the rules.
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
"""A device that could not be told is told again so much later."""
FORGET_S = 300.0
_AT_ONCE = 32
_SLACK_BYTES = 16 * MIB
_PAGES_BYTES = 1 * MIB
"""The balloon's granule here: whole MiB suit every VMM."""


class Wanted(Protocol):
    """What of a VM's settings matters here: `settings.VmSettings` has it."""

    @property
    def floor_bytes(self) -> int: ...
    @property
    def balloon(self) -> bool: ...
    @property
    def virtio_mem(self) -> bool: ...
    @property
    def although_reports(self) -> bool: ...


@dataclass(slots=True)
class _Held:
    """A lease that is on disk. `letting_go` is why it must go, until the device was told."""

    lease: Lease
    since_s: float
    letting_go: str = ""
    tried_at_s: float | None = None


@dataclass(slots=True)
class _Vm:
    """What is remembered of a VM that the settings ask this for."""

    seen_at_s: float
    watch: rules.Watch = field(default_factory=rules.Watch)
    problem: str = ""
    polls: bool = False
    polled_at_s: float | None = None
    settled_at_s: float | None = None
    """The last step that it was seen to have given, or was let off."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The device to take from: what it was told to leave the guest, and what it leaves it now."""

    device: ActionKind
    device_id: str
    now_bytes: int
    reached_bytes: int
    granule_bytes: int
    most_bytes: int = 0


class Fallbacks:
    """All leases of one manager. No method raises VmError; `problems` says what went wrong."""

    def __init__(
        self,
        state_folder: Path,
        *,
        root: str = "/",
        libvirt_uri: str = URI,
        clock: Callable[[], float] = time.monotonic,
        next_id: Callable[[], int] | None = None,
    ) -> None:
        """`state_folder` is made where it is missing; the leases are files in it.

        `next_id` numbers the actions: give the manager's own. They carry urgency 0.
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
        """What stands now: a monitor held by another, a lease that cannot be let go of, …"""
        return (*self._unreadable, *(vm.problem for vm in self._vms.values() if vm.problem))

    def leases(self) -> tuple[Lease, ...]:
        """What is held now, of VMs that run."""
        return tuple(held.lease for held in self._held.values() if self._lives(held.lease))

    def holds(self, vm: VmDescription) -> bool:
        """Whether something is held of this VM: it is then to be looked at often."""
        return bool(self._of(key_of(vm)))

    async def recover(self) -> tuple[ManagerAction, ...]:
        """Deflate what a killed manager left. Call at the start, before anything else, and every
        ten seconds or so: what a held monitor kept from being let go of is tried again."""
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
            if not held.letting_go and unseen_s > rules.STALE_S:
                held.letting_go = "nobody looks after the VM any more"
        done: list[ManagerAction] = []
        await self._let_go_of_all(done)
        return tuple(done)

    async def release_all(self, deadline_s: float) -> tuple[ManagerAction, ...]:
        """Let go of everything, side by side, within `deadline_s`; what could not be stays on disk.

        Nothing is taken from now on. A step that is under way ends first, and what it took goes, too.
        """
        self._is_ending = True
        done: list[ManagerAction] = []
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(key: str) -> None:
            async with gate, self._vm(key).lock:
                for held in self._of(key):
                    held.letting_go = held.letting_go or "the manager ends"
                    action = await self._let_go(held, held.letting_go)
                    if action is not None:
                        done.append(action)

        keys = self._vms.keys() | {held.lease.vm for held in self._held.values()}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*map(one, keys))
        return tuple(done)

    async def _let_go_of_all(self, done: list[ManagerAction]) -> None:
        """Every lease that is due, side by side; `done` grows as they are."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(held: _Held) -> None:
            async with gate, self._vm(held.lease.vm).lock:
                action = await self._let_go(held, held.letting_go)
            if action is not None:
                done.append(action)

        due = [held for held in list(self._held.values()) if self._is_due(held)]
        await asyncio.gather(*map(one, due))

    async def ease(
        self, vm: VmDescription, state: VmState, guest: GuestSnapshot, settings: Wanted
    ) -> ManagerAction | None:
        """Let go at once where the guest runs short, froze, or nothing asks any more.

        To be called at every sample of a VM that has a lease or that the settings ask this for: the
        first time, it also turns balloon statistics on, which must have moved before anything is
        taken. A lease that this is not called for is let go of by `recover`.
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
        """Take one small step towards `goal_bytes` more, where the rules allow it; None: nothing
        was taken. Eases first. With a goal of 0 what is held is kept; a lease that is not stepped
        for a while is let go of.
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
                if any(held.letting_go for held in self._of(key)):
                    return None
                if goal_bytes <= 0 and not self._should_have_given(key, known):
                    return None
                return await self._step(vm, known, goal_bytes, settings)
            except GivebackError as error:
                known.problem = str(error)
                return None

    def _should_have_given(self, key: str, known: _Vm) -> bool:
        """Whether the guest has had its time for the last step: true once for each."""
        stepped_at_s = known.watch.stepped_at_s
        if not self._of(key) or stepped_at_s == known.settled_at_s:
            return False
        if not rules.is_stuck(known.watch, self._clock()):
            return False
        known.settled_at_s = stepped_at_s
        return True

    async def _ask_for_statistics(self, vm: VmDescription, known: _Vm) -> None:
        """Before there is need: without them nothing is taken. Tried again where it failed."""
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
            # No VMM tells what its balloon was told.
            told = min(held.lease.target_bytes, choice.now_bytes)
            choice = replace(choice, now_bytes=told)
        if choice.reached_bytes > choice.now_bytes + _SLACK_BYTES:
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
        """Write the lease, then tell the device. Raises GivebackError; the lease is then let go of."""
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
            await _tell(control, lease, target)
        except VmError as error:
            # Perhaps it was heard, perhaps not.
            held.letting_go, held.tried_at_s = f"the device did not answer ({error})", self._clock()
            raise
        known.watch = rules.stepped(known.watch, self._clock())
        before = size(lease.before_bytes)
        reason = f"{choice.device.value}: {size(target)} left of {before}, in small steps"
        return self._action(vm.name, choice.device, taken_bytes, reason)

    async def _give_up(
        self, known: _Vm, control: Control, held: _Held, choice: _Choice
    ) -> ManagerAction | None:
        """Where the guest will not give what it was told to, ask for no more than it gave."""
        if not rules.is_stuck(known.watch, self._clock()):
            return None
        lease = replace(held.lease, target_bytes=min(choice.reached_bytes, held.lease.before_bytes))
        # To the device first: the lease may well say more than is held, never less.
        await _tell(control, lease, lease.target_bytes)
        held.lease = lease
        await asyncio.to_thread(self._store.put, lease)
        now_s = self._clock()
        known.watch = replace(rules.stepped(known.watch, now_s), pressed_at_s=now_s)
        reason = (
            f"{lease.device.value}: the guest keeps {size(choice.reached_bytes)}: asked no more"
        )
        return self._action(lease.vm, ActionKind.DEFLATE, 0, reason)

    async def _ease(
        self, key: str, known: _Vm, state: VmState, guest: GuestSnapshot
    ) -> ManagerAction | None:
        now_s = known.seen_at_s = self._clock()
        numbers = rules.numbers_of(state, guest, now_s, time.time())
        known.watch = rules.noted(known.watch, numbers, now_s)
        action = None
        for held in self._of(key):
            if not held.letting_go:
                held.letting_go = rules.must_let_go(known.watch, held.since_s, now_s)
            if self._is_due(held):
                action = await self._let_go(held, held.letting_go) or action
        return action

    async def _let_go(self, held: _Held, why: str) -> ManagerAction | None:
        """Give back what a lease holds, then forget it. What fails is tried again, and is a problem."""
        lease = held.lease
        if self._held.get(file_name(lease)) is not held:
            return None
        known = self._vm(lease.vm)
        held.tried_at_s = self._clock()
        try:
            if self._lives(lease):
                control = control_at(lease.control, lease.pid)
                await _tell(control, lease, await _all_of(control, lease))
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
        """Whether the VM that it was taken from still runs: a pid is not a VM for ever."""
        return start_ticks(self._root, lease.pid) == lease.start_ticks

    def _is_due(self, held: _Held) -> bool:
        if not self._lives(held.lease):
            return True
        waited = held.tried_at_s is None or self._clock() - held.tried_at_s >= RETRY_S
        return bool(held.letting_go) and waited

    def _of(self, key: str) -> list[_Held]:
        return [held for held in self._held.values() if held.lease.vm == key]

    def _find(self, key: str, choice: _Choice) -> _Held | None:
        return next((held for held in self._of(key) if _is_of(held.lease, choice)), None)

    def _vm(self, key: str) -> _Vm:
        return self._vms.setdefault(key, _Vm(self._clock()))

    def _prune(self, now_s: float) -> None:
        """Forget VMs that nobody has shown us for long and of which nothing is held."""
        if now_s - self._pruned_at_s < FORGET_S / 5:
            return
        self._pruned_at_s = now_s
        holding = {held.lease.vm for held in self._held.values()}
        for key, known in list(self._vms.items()):
            if now_s - known.seen_at_s > FORGET_S and key not in holding:
                del self._vms[key]


def _choice(devices: Devices, settings: Wanted, least_bytes: int) -> _Choice | None:
    """virtio-mem first: what it unplugs, the guest cannot want back on its own."""
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
    """What the guest had before, and what was plugged in since: a balloon is told the sum."""
    if not lease.most_bytes:
        return lease.before_bytes
    balloon = (await control.devices()).balloon
    plugged = 0 if balloon is None else balloon.most_bytes - lease.most_bytes
    return lease.before_bytes + max(0, plugged)


async def _tell(control: Control, lease: Lease, value_bytes: int) -> None:
    if lease.device is ActionKind.BALLOON:
        await control.set_balloon(value_bytes)
    else:
        await control.set_virtio_mem(lease.device_id, value_bytes)
