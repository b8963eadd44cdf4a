"""What fallbacks do to a VM's devices and leases, against devices that do as they are told."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from giveback.accounting.usage import NO_GUEST
from giveback.manager.devices import fallback
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.devices.leases import LeaseStore, file_name
from giveback.manager.settings.load import VmSettings
from giveback.vmm.base import Answer, BalloonStatistics, VmDescription, VmState
from giveback.vmm.control.devices import BalloonSize, Devices, VirtioMem

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.manager.model import ManagerAction

MIB = 1 << 20
VM = VmDescription("qemu", "one", os.getpid(), 1024 * MIB, (), control="/run/one")


class Control:
    """Devices of one VM: the guest gives at once what it is told to."""

    address = "qemu:/run/one"

    def __init__(self, balloon: BalloonSize | None = None, **virtio_mem_bytes: int) -> None:
        self.balloon = balloon
        self.virtio_mem = virtio_mem_bytes
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def devices(self) -> Devices:
        self.asked.set()
        await self.answers.wait()
        devices = (VirtioMem(name, now, now, 2 * MIB) for name, now in self.virtio_mem.items())
        return Devices(self.balloon, tuple(devices), 5)

    async def set_balloon(self, kept_bytes: int) -> None:
        assert self.balloon is not None
        self.balloon = replace(self.balloon, kept_bytes=kept_bytes)

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        self.virtio_mem[device_id] = requested_bytes

    async def set_statistics_period(self, period_s: int) -> None:
        del period_s


class Driven:
    """Fallbacks of one VM, whose guest says something new every 5 s."""

    def __init__(
        self, folder: Path, control: Control, settings: VmSettings, patch: pytest.MonkeyPatch
    ) -> None:
        patch.setattr(fallback, "control_of", lambda _vm, _uri: control)
        patch.setattr(fallback, "control_at", lambda _address, _pid: control)
        self.now_s = 1000.0
        self.reporting = Answer.NO
        self.settings = settings
        self.manager = Fallbacks(folder, clock=lambda: self.now_s)

    async def step(self, available_mib: int = 800, goal_mib: int = 1024) -> ManagerAction | None:
        self.now_s += 5
        said = BalloonStatistics(self.now_s, 1024 * MIB, 0, available_mib * MIB)
        state = VmState(running=True, statistics=said, reporting_negotiated=self.reporting)
        return await self.manager.step(VM, state, NO_GUEST, goal_mib * MIB, self.settings)


def test_each_of_several_devices_has_a_lease_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(m0=64 * MIB, m1=512 * MIB)
        driven = Driven(tmp_path, control, VmSettings(virtio_mem=True), monkeypatch)
        for _ in range(4):
            await driven.step()
        assert control.virtio_mem["m0"] == 0
        assert control.virtio_mem["m1"] < 512 * MIB
        assert len(driven.manager.leases()) == len(LeaseStore(tmp_path).load()[0]) == 2
        await Fallbacks(tmp_path).recover()
        assert control.virtio_mem == {"m0": 64 * MIB, "m1": 512 * MIB}

    asyncio.run(scene())
    assert list(tmp_path.iterdir()) == []


def test_what_is_held_is_kept_while_the_host_is_short_and_no_more_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(BalloonSize(1024 * MIB, 1024 * MIB))
        driven = Driven(tmp_path, control, VmSettings(balloon=True), monkeypatch)
        await driven.step()
        await driven.step()
        for _ in range(60):
            assert await driven.step(goal_mib=0) is None
        (lease,) = driven.manager.leases()
        assert lease.target_bytes == 960 * MIB
        assert driven.manager.holds(VM)
        assert await driven.step(available_mib=20, goal_mib=0) is not None
        assert not driven.manager.holds(VM)

    asyncio.run(scene())


def test_a_guest_that_does_not_give_is_let_off_though_no_more_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(BalloonSize(1024 * MIB, 1024 * MIB))
        driven = Driven(tmp_path, control, VmSettings(balloon=True), monkeypatch)
        await driven.step()
        await driven.step()
        control.balloon = BalloonSize(1024 * MIB, 1024 * MIB)
        done = [await driven.step(goal_mib=0) for _ in range(10)]
        assert [action.reason for action in done if action] == [
            "balloon: the guest keeps 1.0 GiB, so its target is raised to that"
        ]

    asyncio.run(scene())


@pytest.mark.parametrize("although_reports", [False, True])
def test_a_guest_that_reports_is_left_alone_unless_its_settings_say_otherwise(
    although_reports: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(BalloonSize(1024 * MIB, 1024 * MIB))
        settings = VmSettings(balloon=True, although_reports=although_reports)
        driven = Driven(tmp_path, control, settings, monkeypatch)
        driven.reporting = Answer.YES
        await driven.step()
        assert (await driven.step() is not None) == although_reports

    asyncio.run(scene())


def test_a_lease_whose_name_tells_no_device_is_dropped_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(m0=512 * MIB)
        driven = Driven(tmp_path, control, VmSettings(virtio_mem=True), monkeypatch)
        await driven.step()
        await driven.step()
        (lease,) = driven.manager.leases()
        (tmp_path / file_name(lease)).rename(tmp_path / f"{lease.pid}-1-virtio-mem.lease")
        await Fallbacks(tmp_path).recover()
        assert control.virtio_mem == {"m0": 512 * MIB}

    asyncio.run(scene())
    assert list(tmp_path.iterdir()) == []


def test_memory_that_was_plugged_in_meanwhile_is_not_taken_by_a_deflation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(BalloonSize(1024 * MIB, 1024 * MIB))
        driven = Driven(tmp_path, control, VmSettings(balloon=True), monkeypatch)
        await driven.step()
        await driven.step()
        assert control.balloon == BalloonSize(960 * MIB, 1024 * MIB)
        control.balloon = BalloonSize((960 + 512) * MIB, (1024 + 512) * MIB)
        await driven.step(available_mib=20)
        assert control.balloon == BalloonSize((1024 + 512) * MIB, (1024 + 512) * MIB)

    asyncio.run(scene())


def test_a_step_under_way_takes_nothing_from_a_manager_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        control = Control(BalloonSize(1024 * MIB, 1024 * MIB))
        driven = Driven(tmp_path, control, VmSettings(balloon=True), monkeypatch)
        await driven.step(goal_mib=0)
        control.answers.clear()
        control.asked.clear()
        stepping = asyncio.create_task(driven.step())
        await control.asked.wait()
        ending = asyncio.create_task(driven.manager.release_all(10))
        await asyncio.sleep(0)
        control.answers.set()
        await asyncio.gather(stepping, ending)
        assert control.balloon == BalloonSize(1024 * MIB, 1024 * MIB)
        assert await driven.step() is None

    asyncio.run(scene())
    assert list(tmp_path.iterdir()) == []
