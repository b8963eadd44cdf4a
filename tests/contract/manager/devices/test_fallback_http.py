"""Cloud Hypervisor's and Firecracker's devices: every exchange validated by their published APIs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from fallback_kill import MIB, Clock, state
from http_answers import CLOUD_HYPERVISOR, FIRECRACKER
from scripted_vmm import Api, process, serving

from giveback.accounting.usage import NO_GUEST
from giveback.errors import VmError
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.model import ActionKind
from giveback.manager.settings.load import VmSettings
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.control.address import control_at
from giveback.vmm.control.devices import BalloonSize, Devices, VirtioMem

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.vmm.base import VmDescription


def test_cloud_hypervisor(tmp_path: Path) -> None:
    api = Api("cloud-hypervisor", CLOUD_HYPERVISOR)
    with serving(tmp_path / "s", api):
        control = control_at(f"cloud-hypervisor:{tmp_path}/s", os.getpid())
        devices = asyncio.run(control.devices())
        assert devices == Devices(BalloonSize(80 * MIB, 96 * MIB))
        asyncio.run(control.set_balloon(64 * MIB))
        asyncio.run(control.set_statistics_period(5))
    assert api.sent == [("PUT /api/v1/vm.resize", {"desired_balloon": 32 * MIB})]


def test_cloud_hypervisor_s_virtio_mem(tmp_path: Path) -> None:
    memory = {"size": 96 * MIB, "hotplugged_size": 64 * MIB, "hotplug_method": "VirtioMem"}
    info = {"config": {"payload": {"kernel": "/vmlinux"}, "memory": memory}, "state": "Running"}
    api = Api("cloud-hypervisor", {"/api/v1/vm.info": (200, info)})
    with serving(tmp_path / "s", api):
        control = control_at(f"cloud-hypervisor:{tmp_path}/s", os.getpid())
        (device,) = asyncio.run(control.devices()).virtio_mem
        assert (device.requested_bytes, device.block_bytes) == (64 * MIB, 2 * MIB)
        asyncio.run(control.set_virtio_mem(device.id, 32 * MIB))
    assert api.sent == [("PUT /api/v1/vm.resize", {"desired_ram": 128 * MIB})]


def test_firecracker(tmp_path: Path) -> None:
    api = Api("firecracker", FIRECRACKER)
    with serving(tmp_path / "s", api):
        control = control_at(f"firecracker:{tmp_path}/s", os.getpid())
        devices = asyncio.run(control.devices())
        region = VirtioMem("ram", 64 * MIB, 64 * MIB, 2 * MIB)
        assert devices == Devices(BalloonSize(80 * MIB, 96 * MIB), (region,), 1)
        asyncio.run(control.set_balloon(64 * MIB))
        asyncio.run(control.set_virtio_mem("ram", 32 * MIB))
        asyncio.run(control.set_statistics_period(5))
    assert api.sent == [
        ("PATCH /balloon", {"amount_mib": 32}),
        ("PATCH /hotplug/memory", {"requested_size_mib": 32}),
        ("PATCH /balloon/statistics", {"stats_polling_interval_s": 5}),
    ]


def test_a_refusal_is_told_in_the_vmm_s_words(tmp_path: Path) -> None:
    refused = {"PATCH /balloon": (400, {"fault_message": "No \x1b[2J balloon"})}
    with serving(tmp_path / "s", Api("firecracker", {**FIRECRACKER, **refused})):
        control = control_at(f"firecracker:{tmp_path}/s", os.getpid())
        with pytest.raises(VmError, match=r"PATCH /balloon is refused \(400\).*balloon") as told:
            asyncio.run(control.set_balloon(0))
    assert "\x1b" not in str(told.value)


def test_a_lease_over_http_and_back(tmp_path: Path) -> None:
    """The balloon's numbers carry no time here, the agent's word does: then it is taken by that."""
    given: Any = FIRECRACKER["/vm/config"][1]
    config = given | {"machine-config": {"mem_size_mib": 1024, "vcpu_count": 1}}
    api = Api("firecracker", {**FIRECRACKER, "/vm/config": (200, config)})
    clock = Clock()
    manager = Fallbacks(tmp_path / "state", clock=clock)

    async def go(vm: VmDescription) -> None:
        done = []
        for available_mib in (800, 800, 20):
            clock.now_s += 5
            now = state(clock.now_s, available_mib * MIB)
            settings = VmSettings(balloon=True)
            done.append(await manager.step(vm, now, NO_GUEST, 1024 * MIB, settings))
        taken, given = done[1:]
        assert taken is not None
        assert given is not None
        assert (taken.kind, taken.expected_bytes) == (ActionKind.BALLOON, 63 * MIB)
        assert given.kind is ActionKind.DEFLATE

    words = ["--api-sock", str(tmp_path / "s"), "--id", "one"]
    with process("firecracker", *words) as found, serving(tmp_path / "s", api):
        vm = FirecrackerBackend().recognise(found)
        assert vm is not None
        asyncio.run(go(vm))
    # 16 MiB were held before the first step: they are left as they were.
    assert api.sent == [
        ("PATCH /balloon", {"amount_mib": 79}),
        ("PATCH /balloon", {"amount_mib": 16}),
    ]
    assert manager.leases() == ()
