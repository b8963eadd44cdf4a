"""Cloud Hypervisor and Firecracker: every exchange is validated against their published APIs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from http_answers import CLOUD_HYPERVISOR, FIRECRACKER, MIB
from scripted_vmm import Api, process, serving

from giveback.host import smaps
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.base import Answer, Backing, ChannelKind, VmDescription
from giveback.vmm.mapping import bind, within

if TYPE_CHECKING:
    from pathlib import Path


def test_cloud_hypervisor(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    words = ["--api-socket", f"path={path}", "--memory", "size=96M", "--balloon"]
    words += ["size=0,free_page_reporting=on", "--vsock", "cid=3,socket=/tmp/vsock"]
    backend = CloudHypervisorBackend()
    with process("cloud-hypervisor", *words, memory="anonymous:96:8") as running:
        vm = backend.recognise(running)
        assert vm is not None
        assert (vm.name, vm.ram_bytes, vm.capabilities.reports_pages) == ("web", 96 * MIB, "yes")
        with serving(path, Api("cloud-hypervisor", CLOUD_HYPERVISOR)):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
        assert state.problems == ()
        assert (state.running, state.ram_bytes, state.balloon_bytes) == (True, 96 * MIB, 16 * MIB)
        assert state.statistics is not None
        assert state.statistics.updated_s == 1_700_000_000.5
        assert state.statistics.free_bytes == 20 * MIB
        assert state.description is not None
        assert state.description.capabilities.deflate_on_oom
        assert state.description.channels[0].kind is ChannelKind.HYBRID_VSOCK
        assert resident_bytes(state.description) == 8 * MIB


def test_cloud_hypervisor_zones_around_the_hole(tmp_path: Path) -> None:
    path = tmp_path / "s"
    config = {
        "payload": {},
        "memory": {
            "size": 0,
            "zones": [
                {"id": "a", "size": 96 * MIB, "hotplugged_size": 0},
                {"id": "b", "size": 32 * MIB, "shared": True, "hotplugged_size": 32 * MIB},
            ],
        },
        "devices": [{"path": "/sys/bus/pci/devices/0000:01:00.0"}],
    }
    answers = {"/api/v1/vm.info": (200, {"config": config, "state": "Paused"})}
    backend = CloudHypervisorBackend()
    memory = "anonymous:64:1 memfd:64:2 anonymous:32:3"
    with process("cloud-hypervisor", f"--api-socket={path}", memory=memory) as running:
        vm = backend.recognise(running)
        assert vm is not None
        with serving(path, Api("cloud-hypervisor", answers)):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
        assert state.running is False
        assert state.description is not None
        assert state.description.capabilities.balloon is Answer.NO
        assert "pins" in state.description.blockers[0]
        assert [b.backing for b in state.description.ram_blocks] == [
            Backing.ANONYMOUS,
            Backing.MEMFD,
        ]
        assert resident_bytes(state.description) == 6 * MIB


def test_cloud_hypervisor_with_virtio_mem(tmp_path: Path) -> None:
    """The region is mapped whole; without its block, plugged memory would count as the VMM's own."""
    path = tmp_path / "s"
    memory = {
        "size": 64 * MIB,
        "hotplug_method": "VirtioMem",
        "hotplug_size": 96 * MIB,
        "hotplugged_size": 32 * MIB,
    }
    config = {"payload": {}, "memory": memory}
    answers = {"/api/v1/vm.info": (200, {"config": config, "state": "Running"})}
    words = ["--memory", "size=64M,hotplug_method=virtio-mem,hotplug_size=96M"]
    words += ["--api-socket", str(path)]
    backend = CloudHypervisorBackend()
    with process("cloud-hypervisor", *words, memory="anonymous:64:8 anonymous:96:4") as running:
        vm = backend.recognise(running)
        assert vm is not None
        assert (vm.ram_bytes, vm.block_bytes) == (64 * MIB, 160 * MIB)
        with serving(path, Api("cloud-hypervisor", answers)):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
        assert state.ram_bytes == 96 * MIB
        assert state.description is not None
        assert state.description.capabilities.virtio_mem is Answer.YES
        assert [b.hotplug for b in state.description.ram_blocks] == [False, True]
        assert resident_bytes(state.description) == 12 * MIB


def test_cloud_hypervisor_with_acpi_hotplug(tmp_path: Path) -> None:
    """`size` includes plugged memory, wherever that lies."""
    path = tmp_path / "s"
    memory = {"size": 64 * MIB, "hotplug_method": "Acpi", "hotplug_size": 96 * MIB}
    config = {"payload": {}, "memory": memory}
    answers = {"/api/v1/vm.info": (200, {"config": config, "state": "Running"})}
    backend = CloudHypervisorBackend()
    with process("cloud-hypervisor", "--api-socket", str(path)) as running:
        vm = backend.recognise(running)
        assert vm is not None
        with serving(path, Api("cloud-hypervisor", answers)):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
    assert state.description is not None
    (block,) = state.description.ram_blocks
    assert (block.size_bytes, block.grows) == (64 * MIB, True)


def test_cloud_hypervisor_before_a_vm_is_created(tmp_path: Path) -> None:
    path = tmp_path / "s"
    backend = CloudHypervisorBackend()
    with process("cloud-hypervisor", "--api-socket", str(path)) as running:
        vm = backend.recognise(running)
        assert vm is not None
        with serving(path, Api("cloud-hypervisor", {"/api/v1/vm.info": (404, None)})):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
        assert "no VM has been created" in state.problems[0]


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_firecracker(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "fc.sock"
    backend = FirecrackerBackend()
    with process("firecracker", "--id", "vm1", "--api-sock", str(path), memory=f"{kind}:96:8 "
                 "anonymous:256:1") as running:  # fmt: skip
        vm = backend.recognise(running)
        assert vm is not None
        assert (vm.name, vm.ram_bytes) == ("vm1", 0)
        with serving(path, Api("firecracker", FIRECRACKER)):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
        assert state.problems == ()
        assert (state.running, state.ram_bytes, state.balloon_bytes) == (True, 160 * MIB, 16 * MIB)
        assert state.statistics is not None
        assert state.statistics.updated_s is None
        assert state.statistics.total_bytes == 70 * MIB
        assert state.description is not None
        assert state.description.capabilities.reports_pages is Answer.YES
        assert state.description.capabilities.virtio_mem is Answer.YES
        assert state.description.channels[0].path.endswith(f"/{vm.pid}/cwd/v.sock")
        assert resident_bytes(state.description) == 9 * MIB


def test_firecracker_without_a_balloon_is_not_asked_for_statistics(tmp_path: Path) -> None:
    path = tmp_path / "fc.sock"
    config = {"machine-config": {"mem_size_mib": 96, "vcpu_count": 1}}
    api = Api("firecracker", FIRECRACKER | {"/vm/config": (200, config)})
    backend = FirecrackerBackend()
    with process("firecracker", f"--api-sock={path}") as running:
        vm = backend.recognise(running)
        assert vm is not None
        with serving(path, api):
            state = asyncio.run(backend.inspect(vm, timeout_s=10))
    assert api.seen == ["/", "/vm/config"]
    assert state.description is not None
    assert state.description.capabilities.balloon is Answer.NO
    assert state.statistics is None


@pytest.mark.parametrize("words", [["--no-api"], ["--no-api", "--config-file", "vm.json"]])
def test_firecracker_without_an_api(words: list[str]) -> None:
    backend = FirecrackerBackend()
    with process("firecracker", *words) as running:
        vm = backend.recognise(running)
        assert vm is not None
        assert "--no-api" in asyncio.run(backend.inspect(vm)).problems[0]


def resident_bytes(vm: VmDescription) -> int:
    mappings = smaps.parse_smaps(smaps.read_smaps("/", vm.pid))
    bound = bind(vm.ram_blocks, mappings)
    ranges = [place for block in bound for place in block.ranges]
    assert sum(end - start for start, end in ranges) == vm.block_bytes
    return smaps.add(mapping.usage for mapping in within(mappings, ranges)).rss_bytes
