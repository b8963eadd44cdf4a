"""Fallbacks against a real QEMU: the lease is on disk before the device is told, and gone after it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fallback_kill import MIB, Clock, state
from peers import emulator, environment_of
from real_qemu import described, program_words, running

from giveback.accounting.usage import NO_GUEST
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.devices.leases import LeaseStore, file_name
from giveback.manager.model import ActionKind, Lease
from giveback.manager.settings.load import VmSettings
from giveback.vmm.control.address import control_at, control_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.manager.model import ManagerAction
    from giveback.vmm.base import VmDescription


RAM = 1024 * MIB
BALLOON = ["-device", "virtio-balloon-pci,id=b0"]
TRACE = ["-trace", "virtio_balloon_to_target", "-D", "{dir}/trace"]
VIRTIO_MEM = [
    "-object", "memory-backend-memfd,id=v0,size=512M",
    "-device", "virtio-mem-pci,id=m0,memdev=v0,requested-size=512M",
]  # fmt: skip
MEMORY = ["-m", "1G,maxmem=4G,slots=2"]


@contextmanager
def vm_with(directory: Path, *words: str) -> Iterator[VmDescription]:
    with running(directory, *MEMORY, *words, machine="pc") as process:
        yield described(process)


class Driven:
    """A manager's fallbacks, and the guest that it sees: 5 s pass at each look."""

    def __init__(self, vm: VmDescription, folder: Path, settings: VmSettings) -> None:
        self.vm, self.settings, self.clock = vm, settings, Clock()
        self.manager = Fallbacks(folder, clock=self.clock)

    async def step(self, available_mib: int, goal_mib: int = 1024) -> ManagerAction | None:
        self.clock.now_s += 5
        now = state(self.clock.now_s, available_mib * MIB)
        return await self.manager.step(self.vm, now, NO_GUEST, goal_mib * MIB, self.settings)

    async def inflate(self) -> ManagerAction:
        """The first look shows numbers, the second that they move: then comes the first step."""
        action = await self.step(800) or await self.step(800)
        assert action is not None, self.manager.problems
        return action


def told(directory: Path) -> list[int]:
    """What the balloon was told to leave the guest, each time."""
    text = (directory / "trace").read_text() if (directory / "trace").exists() else ""
    return [int(target, 16) for target in re.findall(r"balloon target: 0x([0-9a-f]+)", text)]


def leases_in(folder: Path) -> tuple[Lease, ...]:
    return LeaseStore(folder).load()[0]


def traces() -> bool:
    said = subprocess.run(
        [*program_words(), "-trace", "help"],
        capture_output=True,
        text=True,
        check=False,
        env=environment_of(emulator()),
    )
    return "virtio_balloon_to_target" in said.stdout


def test_a_balloon_is_inflated_in_steps_and_deflated(tmp_path: Path) -> None:
    if not traces():
        pytest.skip("this QEMU was built without a trace of what its balloon is told")

    async def go(driven: Driven) -> None:
        first = await driven.inflate()
        assert (first.kind, first.expected_bytes) == (ActionKind.BALLOON, 64 * MIB)
        assert told(tmp_path) == [RAM - 64 * MIB]
        (lease,) = driven.manager.leases()
        assert (lease.before_bytes, lease.target_bytes) == (RAM, RAM - 64 * MIB)
        assert leases_in(tmp_path / "state") == (lease,)
        period = (await control_of(driven.vm, "").devices()).statistics_period_s
        assert period == 5
        # No driver is there: the guest never gives what it was told, and is asked no more for it.
        assert await driven.step(730) is None
        driven.clock.now_s += 26
        settled = await driven.step(731)
        assert settled is not None
        assert "its target is raised" in settled.reason
        assert told(tmp_path) == [RAM - 64 * MIB, RAM]
        eased = await driven.step(20)
        assert eased is not None
        assert eased.kind is ActionKind.DEFLATE
        assert "20 MiB available" in eased.reason
        assert told(tmp_path)[-1] == RAM
        assert driven.manager.leases() == leases_in(tmp_path / "state") == ()
        assert list(driven.manager.problems) == []

    with vm_with(tmp_path, *BALLOON, *TRACE) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "state", VmSettings(balloon=True))))


def test_virtio_mem_goes_first_by_whole_blocks_down_to_the_floor(tmp_path: Path) -> None:
    async def go(driven: Driven) -> None:
        await driven.inflate()
        for _ in range(6):
            await driven.step(1000)
        (lease,) = driven.manager.leases()
        assert lease.device is ActionKind.VIRTIO_MEM
        (device,) = (await control_of(driven.vm, "").devices()).virtio_mem
        assert device.requested_bytes == lease.target_bytes
        assert device.requested_bytes % device.block_bytes == 0
        # The guest's own word of its size never falls here, so that the floor stands for ever.
        assert lease.before_bytes - lease.target_bytes <= 7 * 64 * MIB
        await driven.manager.release_all(10)
        (device,) = (await control_of(driven.vm, "").devices()).virtio_mem
        assert device.requested_bytes == 512 * MIB
        assert list((tmp_path / "state").iterdir()) == []

    settings = VmSettings(balloon=True, virtio_mem=True, floor_bytes=600 * MIB)
    with vm_with(tmp_path, *BALLOON, *VIRTIO_MEM) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "state", settings)))


@pytest.mark.parametrize(
    "settings",
    [VmSettings(), VmSettings(balloon=True, floor_bytes=RAM), VmSettings(virtio_mem=True)],
)
def test_nothing_is_taken_unasked_below_the_floor_or_without_the_device(
    settings: VmSettings, tmp_path: Path
) -> None:
    async def go(driven: Driven) -> None:
        for _ in range(4):
            assert await driven.step(900) is None
        assert driven.manager.leases() == ()
        assert list(driven.manager.problems) == []

    with vm_with(tmp_path, *BALLOON) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "state", settings)))
    assert not (tmp_path / "state").exists()


def test_a_manager_killed_at_any_line_leaves_nothing_inflated(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "helpers/fallback_kill.py"
    with vm_with(tmp_path, *BALLOON, *VIRTIO_MEM) as vm:
        words = [str(tmp_path / "state"), str(tmp_path / "qmp"), str(vm.pid), "7"]
        done = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert kills[-1]["status"] == 0, done.stderr
    assert {kill["told"] for kill in kills} >= {0, 64 * MIB, 128 * MIB}
    for kill in kills:
        # What the device was told is on record, at every moment.
        assert kill["files"] == 1 or kill["told"] == 0, kill
        assert (kill["recovered"], kill["told_after"], kill["files_after"]) == (0, 0, 0), kill


def test_a_held_monitor_is_a_problem_that_passes(tmp_path: Path) -> None:
    async def go(driven: Driven) -> None:
        path = str(tmp_path / "qmp")
        with socket.socket(socket.AF_UNIX) as holder:
            holder.connect(path)
            assert b"QMP" in await asyncio.to_thread(holder.recv, 4096)
            assert await driven.step(800) is None
            (problem,) = driven.manager.problems
            assert "another program" in problem
            assert driven.manager.leases() == ()
        await driven.inflate()
        assert list(driven.manager.problems) == []
        with socket.socket(socket.AF_UNIX) as holder:
            holder.connect(path)
            assert b"QMP" in await asyncio.to_thread(holder.recv, 4096)
            assert await driven.step(20) is None
            (problem,) = driven.manager.problems
            assert "cannot be given back yet" in problem
            assert len(leases_in(tmp_path / "state")) == 1
        driven.clock.now_s += 5
        (action,) = await driven.manager.recover()
        assert action.kind is ActionKind.DEFLATE
        assert driven.manager.leases() == ()
        assert list(driven.manager.problems) == []

    with vm_with(tmp_path, *VIRTIO_MEM) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "state", VmSettings(virtio_mem=True))))


def test_a_stopped_manager_waits_no_longer_than_its_deadline(tmp_path: Path) -> None:
    async def go(driven: Driven) -> None:
        await driven.inflate()
        os.kill(driven.vm.pid, signal.SIGSTOP)
        try:
            assert await asyncio.wait_for(driven.manager.release_all(0.2), 30) == ()
        finally:
            os.kill(driven.vm.pid, signal.SIGCONT)
        # What could not be given back in time is for the next manager.
        assert len(leases_in(tmp_path / "state")) == 1
        next_one = Fallbacks(tmp_path / "state")
        assert len(await next_one.recover()) == 1
        (device,) = (await control_of(driven.vm, "").devices()).virtio_mem
        assert device.requested_bytes == 512 * MIB

    with vm_with(tmp_path, *VIRTIO_MEM) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "state", VmSettings(virtio_mem=True))))


def test_no_lease_on_disk_nothing_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def go(driven: Driven) -> None:
        for _ in range(3):
            assert await driven.step(800) is None
        (problem,) = driven.manager.problems
        assert "without a lease on disk" in problem
        (device,) = (await control_of(driven.vm, "").devices()).virtio_mem
        assert device.requested_bytes == 512 * MIB

    with vm_with(tmp_path, *VIRTIO_MEM) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "file/state", VmSettings(virtio_mem=True))))


def test_leases_of_vms_that_have_ended_and_of_other_boots_are_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    store = LeaseStore(folder)
    with vm_with(tmp_path, *VIRTIO_MEM) as vm:
        driven = Driven(vm, folder, VmSettings(virtio_mem=True))
        asyncio.run(driven.inflate())
        (lease,) = driven.manager.leases()
        # The same pid, of a process that was another one.
        store.put(replace(lease, start_ticks=lease.start_ticks - 1, target_bytes=0))
        assert len(asyncio.run(Fallbacks(folder).recover())) == 1
    assert driven.manager.leases() == ()
    store.put(lease)
    (folder / "7-8-balloon.lease.new").write_bytes(b"half")
    (folder / "9-9-balloon.lease").write_text('{"version": 1, "boot"')
    other = json.loads((folder / file_name(lease)).read_text()) | {"boot": "another"}
    (folder / "1-1-virtio-mem.lease").write_text(json.dumps(other))
    manager = Fallbacks(folder)
    assert asyncio.run(manager.recover()) == ()
    assert [path.name for path in folder.iterdir()] == ["9-9-balloon.lease"]
    (problem,) = manager.problems
    assert "9-9-balloon.lease" in problem
    assert "manually" in problem


def test_a_lease_of_a_vm_that_is_no_longer_sampled_is_released(tmp_path: Path) -> None:
    async def go(driven: Driven) -> None:
        await driven.inflate()
        assert await driven.manager.recover() == ()
        driven.clock.now_s += 46
        (action,) = await driven.manager.recover()
        assert "no longer sampled" in action.reason
        assert driven.manager.leases() == ()

    with vm_with(tmp_path, *VIRTIO_MEM) as vm:
        asyncio.run(go(Driven(vm, tmp_path / "state", VmSettings(virtio_mem=True))))


def test_a_vm_that_ends_takes_its_lease_with_it(tmp_path: Path) -> None:
    with vm_with(tmp_path, *VIRTIO_MEM) as vm:
        driven = Driven(vm, tmp_path / "state", VmSettings(virtio_mem=True))
        asyncio.run(driven.inflate())
    assert driven.manager.leases() == ()
    assert asyncio.run(driven.manager.recover()) == ()
    assert list((tmp_path / "state").iterdir()) == []


def test_what_qemu_refuses_is_said(tmp_path: Path) -> None:
    with vm_with(tmp_path) as vm:
        control = control_at(f"qemu:{vm.control}", vm.pid)
        assert asyncio.run(control.devices()).balloon is None
        with pytest.raises(Exception, match="QEMU refuses balloon"):
            asyncio.run(control.set_balloon(MIB))
        with pytest.raises(Exception, match="no balloon"):
            asyncio.run(control.set_statistics_period(1))
