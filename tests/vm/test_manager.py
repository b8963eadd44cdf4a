"""The manager and real guests: a hog is fed from their caches; a late port; a balloon let go of."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pytest
from matrix import MATRIX

from giveback.accounting.usage import GuestSource
from giveback.errors import InputError
from giveback.guest.query import read_guest
from giveback.host.procs import read_process
from giveback.manager.daemon import Daemon
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.model import ActionKind, VmCondition
from giveback.manager.settings.load import VmSettings, from_bytes
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import ChannelKind
from giveback.vmm.control import agent_port
from giveback.vmm.control.address import control_of
from giveback_kernel.units import MIB
from giveback_lab.pressure.daemon import daemon
from giveback_lab.pressure.pressure import PressureOptions, PressureRun, run_pressure
from giveback_lab.vms.agent import AgentLog, start_agent
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from giveback.accounting.usage import GuestSnapshot
    from giveback.manager.model import ManagerAction, VmStatus
    from giveback.vmm.base import VmDescription, VmState
    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

T = TypeVar("T")
DEADLINE_S = 120.0
POLL_S = 0.5
# More than is free by 100 MiB or so, at a rate that a slow host's guests can follow.
PRESSURE = PressureOptions(
    ram_bytes=512 * MIB, limit_bytes=1600 * MIB, cold_bytes=200 * MIB, hog_bytes=640 * MIB,
    hog_bytes_per_s=16 * MIB, hold_s=2.0, before_s=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(lab: Lab, accel: Accel) -> PressureRun:
    if os.geteuid() != 0:
        pytest.skip("only root may make the cgroup that stands for a small host")
    try:
        return asyncio.run(run_pressure(PRESSURE, lab, accel, daemon))
    except InputError as error:
        pytest.skip(f"no small host on this machine: {error}")


def test_the_hog_is_fed_from_the_guests_caches(run: PressureRun) -> None:
    # Else nothing was shown.
    assert run.free_before_bytes < PRESSURE.hog_bytes
    assert run.hog_ended == "got all it wanted"
    assert run.returned_bytes() >= PRESSURE.hog_bytes - run.free_before_bytes


def test_nobody_was_killed_or_swapped(run: PressureRun) -> None:
    assert (run.oom_kills, run.ended, run.vm_swap_bytes) == (0, {}, 0)
    for name in PRESSURE.names:
        assert [took for at, took in run.units[name] if at > run.event_end_s], "it works no more"


@dataclass
class Guest:
    """A running VM as the manager sees it."""

    vm: VmDescription
    state: VmState
    picture: GuestSnapshot

    @classmethod
    async def look(cls, pid: int) -> Guest:
        process = read_process("/", pid)
        assert process is not None
        backend = QemuBackend()
        vm = backend.recognise(process)
        assert vm is not None
        state = await backend.inspect(vm, timeout_s=10)
        vm = state.description or vm
        return cls(vm, state, await read_guest(vm, state, time.time(), 5.0))


async def until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """The first thing that `look` finds."""
    end_s = time.monotonic() + DEADLINE_S
    while True:
        found = await look()
        if found is not None:
            return found
        assert time.monotonic() < end_s, f"not within {DEADLINE_S:.0f} s: {what}"
        await asyncio.sleep(POLL_S)


def test_a_late_port_and_a_balloon(lab: Lab, accel: Accel, tmp_path: Path) -> None:
    spec = VmSpec(
        f"late-{os.getpid()}", 512 * MIB, 1, accel.name, reporting=False, agent_port=False
    )

    async def go() -> None:
        async with LabVm(spec, lab.image, lab.emulator) as vm:
            await vm.qmp.disconnect()
            await start_agent(vm, AgentLog().take)
            await a_late_port(vm.pid)
            await a_balloon(vm, tmp_path)

    asyncio.run(go())


async def a_late_port(pid: int) -> None:
    """An agent that runs already opens a port that was plugged in, and answers there."""
    before = await Guest.look(pid)
    assert before.vm.channels == ()
    planned = await agent_port.plan(before.vm)
    channel = await agent_port.carry_out(planned)

    async def answered() -> Guest | None:
        guest = await Guest.look(pid)
        assert guest.vm.channels == (channel,)
        return guest if guest.picture.source is GuestSource.AGENT else None

    after = await until(answered, "the agent's answer over the late port")
    assert after.vm.channels[0].kind is ChannelKind.VIRTIO_SERIAL
    assert after.picture.total_bytes is not None


async def a_balloon(vm: LabVm, folder: Path) -> None:
    """A real driver follows: memory comes back; a manager that is gone leaves nothing inflated."""
    # So that there is something to come back: free memory that was touched once.
    await vm.guest.exec("sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=200; rm /tmp/x")
    manager = Fallbacks(folder / "state")
    resident_bytes = vm.resident_bytes()
    control = control_of((await Guest.look(vm.pid)).vm, "")

    async def taken() -> ManagerAction | None:
        guest = await Guest.look(vm.pid)
        settings = VmSettings(balloon=True, floor_bytes=400 * MIB)
        action = await manager.step(guest.vm, guest.state, guest.picture, 64 * MIB, settings)
        assert manager.problems == ()
        return action

    async def kept_at_most(most_bytes: int) -> bool | None:
        balloon = (await control.devices()).balloon
        assert balloon is not None
        return True if balloon.kept_bytes <= most_bytes else None

    for step in (1, 2):
        action = await until(taken, f"step {step}")
        assert action.kind is ActionKind.BALLOON
    (lease,) = manager.leases()
    await until(lambda: kept_at_most(lease.target_bytes), "the guest to give it")
    assert lease.target_bytes >= 400 * MIB
    assert vm.resident_bytes() < resident_bytes

    async def kept_all() -> bool | None:
        return None if await kept_at_most(lease.before_bytes - 1) else True

    (action,) = await Fallbacks(folder / "state").recover()
    assert action.kind is ActionKind.DEFLATE
    await until(kept_all, "the balloon to be empty")


@MATRIX
def test_a_reclaim_takes_what_is_wanted_from_a_real_guest(
    lab: Lab, accel: Accel, tmp_path: Path
) -> None:
    """The guest's cache is several times the goal: the agent takes no more than the host names."""
    name = f"reclaim-{os.getpid()}"
    spec = VmSpec(name, 768 * MIB, 2, accel.name, agent_port=True, work_disk_bytes=1 << 30)
    name = f"giveback-{name}"
    text = (
        f'[daemon]\nsocket = "{tmp_path}/api.sock"\nstate = "{tmp_path}/state"\n'
        f'[vm."*"]\nignore = true\n[vm."{name}"]\nignore = false\n'
    )

    async def go() -> None:
        async with LabVm(spec, lab.image, lab.emulator) as vm:
            await vm.qmp.disconnect()
            await start_agent(vm, AgentLog().take)
            await vm.guest.exec("sh", "-c", "dd if=/dev/zero of=/work/cold bs=1M count=300; sync")
            manager = Daemon(from_bytes(text.encode(), "test"))
            running = asyncio.create_task(manager.run())
            try:
                await a_reclaim(manager, name)
            finally:
                manager.stop()
                await running

    asyncio.run(go())


async def a_reclaim(manager: Daemon, name: str) -> None:
    async def cold() -> bool | None:
        found = [vm for vm in manager.status().vms if vm.name == name]
        return True if found and (found[0].cold_bytes or 0) > 150 * MIB else None

    await until(cold, "a guest with cold cache")
    plan = await manager.reclaim(60 * MIB, 90.0, [name], dry_run=True)
    assert plan.most_bytes >= 150 * MIB
    assert plan.parts[0].expected_bytes == 60 * MIB
    result = await manager.reclaim(60 * MIB, 90.0, [name])
    assert result.reached, result

    async def known() -> VmStatus | None:
        (vm,) = [vm for vm in manager.status().vms if vm.name == name]
        return vm if vm.cache_bytes is not None else None

    # The report of before the reclaim is not used any more: the guest is asked again.
    seen = await until(known, "the guest's numbers of after the reclaim")
    assert seen.condition is VmCondition.OK
    # Besides the goal free memory comes back, which costs nothing; of the cache most has stayed.
    assert (seen.cache_bytes or 0) > 100 * MIB, (seen, result)
    refused = await manager.reclaim(8 << 30, 20.0, [name])
    assert refused.most_bytes < 8 << 30
    records = [a for a in manager.status().actions if a.kind is ActionKind.RECLAIM]
    assert [a.expected_bytes for a in records] == [60 * MIB, 8 << 30]
