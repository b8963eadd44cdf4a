"""The Cloud Hypervisor backend: HTTP over a unix socket.

Source: vmm/src/api/openapi/cloud-hypervisor.yaml of cloud-hypervisor/cloud-hypervisor (commit
00f68228812d), docs/memory.md, docs/balloon.md; resize() in vmm/src/vm.rs (what hotplug changes).
Never run here against the real program: it needs KVM.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.vmm.backends.programs import given_name, vmm_of
from giveback.vmm.backends.qemu_options import properties
from giveback.vmm.base import (
    Answer,
    Backing,
    BalloonStatistics,
    Capabilities,
    Channel,
    ChannelKind,
    RamBlock,
    VmDescription,
    VmState,
)
from giveback.vmm.clients import answers
from giveback.vmm.clients.http import HttpBackend, name_of_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback.host.procs import Process
    from giveback.vmm.clients.http import VmmApi

_DEFAULT_RAM_BYTES = 512 << 20
_HUGE_BYTES = 2 << 20
_BASE = "/api/v1"
_PAYLOADS = {"kernel", "firmware", "initramfs", "igvm"}
"""Options that create a VM at the start; without one it is created through the API, or restored."""


class CloudHypervisorBackend(HttpBackend):
    """The backend that recognises cloud-hypervisor processes and asks their API."""

    name = "cloud-hypervisor"
    _vmm_of = staticmethod(vmm_of)
    without_socket = "without --api-socket"

    def _describe(self, process: Process, host_path: Callable[[str], str]) -> VmDescription:
        return describe(process, host_path)

    async def _ask(
        self, session: VmmApi, vm: VmDescription, host_path: Callable[[str], str]
    ) -> VmState:
        return await _inspect(session, vm, host_path)


async def _inspect(session: VmmApi, vm: VmDescription, host_path: Callable[[str], str]) -> VmState:
    info = await session.get(f"{_BASE}/vm.info")
    config = answers.node(info, "config")
    if not config:
        return VmState(problems=("no VM has been created in this process yet",))
    described = from_config(vm, config, host_path)
    stats = None
    if described.capabilities.balloon is Answer.YES:
        stats = await session.get(f"{_BASE}/vm.balloon-stats")
    actual = answers.size(answers.node(info), "memory_actual_size")
    held = answers.size(answers.node(stats), "balloon_actual")
    if held is None and actual is not None:
        held = max(0, described.ram_bytes - actual)
    return VmState(
        running=answers.node(info).get("state") == "Running",
        ram_bytes=described.ram_bytes,
        balloon_bytes=held,
        statistics=parse_statistics(stats),
        description=described,
    )


def parse_statistics(answer: object) -> BalloonStatistics | None:
    """Parse `vm.balloon-stats` of newer versions, whose `last_update` is in milliseconds."""
    stats = answers.node(answer, "stats")
    if not isinstance(answer, dict) or "stats" not in answer:
        return None
    updated_ms = answers.size(answer, "last_update") or 0
    return BalloonStatistics(
        updated_s=updated_ms / 1000,
        total_bytes=answers.size(stats, "total_memory"),
        free_bytes=answers.size(stats, "free_memory"),
        available_bytes=answers.size(stats, "available_memory"),
        disk_caches_bytes=answers.size(stats, "disk_caches"),
        swap_in_bytes=answers.size(stats, "swap_in"),
        major_faults=answers.size(stats, "major_faults"),
    )


def describe(process: Process, host_path: Callable[[str], str]) -> VmDescription:
    """Describe the VM by its command line, which does not describe one created through the API."""
    options = _options(process.argv[1:])
    socket = options.get("api-socket", [{}])[0].get("path", "")
    made_here = options.keys() & {"memory", "memory-zone", *_PAYLOADS} and "restore" not in options
    bare = VmDescription(
        backend="cloud-hypervisor",
        name=name_of_socket(socket) or given_name(process) or f"pid-{process.pid}",
        pid=process.pid,
        ram_bytes=0,
        ram_blocks=(),
        control=host_path(socket) if socket else "",
        unread=()
        if made_here
        else ("the VM was created through the API, which has not described it",),
    )
    return _from_options(bare, options, host_path) if made_here else bare


def _from_options(
    vm: VmDescription, options: dict[str, list[dict[str, str]]], host_path: Callable[[str], str]
) -> VmDescription:
    memory = options.get("memory", [{}])[0]
    zones = options.get("memory-zone", [])
    is_virtio = memory.get("hotplug_method") == "virtio-mem"
    blocks = tuple(
        block
        for part in zones or [memory]
        for block in _with_region(
            _block(part.get("id", "zone") if zones else "ram", part),
            answers.written(part.get("hotplug_size", "0")) or 0,
            is_virtio=is_virtio,
        )
    )
    plugged = (answers.written(part.get("hotplugged_size", "0")) or 0 for part in zones or [memory])
    balloon = options.get("balloon", [None])[0]
    return replace(
        vm,
        ram_bytes=sum(block.size_bytes for block in blocks if not block.hotplug)
        + (sum(plugged) if is_virtio else 0),
        ram_blocks=blocks,
        capabilities=_capabilities(
            balloon is not None,
            reports=_on(balloon, "free_page_reporting"),
            deflates=_on(balloon, "deflate_on_oom"),
            vsock="vsock" in options,
            virtio_mem=any(block.hotplug for block in blocks),
        ),
        channels=tuple(
            _channel(v.get("socket", ""), host_path, vm.pid) for v in options.get("vsock", [])
        ),
        blockers=tuple(_blockers(options)),
    )


def _options(words: tuple[str, ...]) -> dict[str, list[dict[str, str]]]:
    """Return the values of each option by its name; an option may have several, or be `--name=value`."""
    implied = {"api-socket": "path", "memory": "size"}
    found: dict[str, list[dict[str, str]]] = {}
    current = ""
    for word in words:
        if word.startswith("--"):
            current, _, value = word[2:].partition("=")
            values = found.setdefault(current, [])
            if value:
                values.append(properties(value, implied.get(current, "")))
        elif word.startswith("-"):
            current = ""  # -v, -vv
        elif current:
            found[current].append(properties(word, implied.get(current, "")))
    return {name: values or [{}] for name, values in found.items()}


def _block(name: str, memory: dict[str, str]) -> RamBlock:
    huge = _on(memory, "hugepages")
    shared = _on(memory, "shared")
    path = memory.get("file", "")
    plain = Backing.MEMFD if shared else Backing.ANONYMOUS
    return RamBlock(
        name=name,
        size_bytes=answers.written(memory.get("size", "")) or _DEFAULT_RAM_BYTES,
        backing=Backing.HUGETLB if huge else Backing.FILE if path else plain,
        path=path,
        page_bytes=(answers.written(memory.get("hugepage_size", "2M")) or _HUGE_BYTES)
        if huge
        else 4096,
        prealloc=_on(memory, "prefault"),
        shared=shared,
    )


def _on(values: dict[str, str] | None, name: str) -> bool:
    return values is not None and values.get(name) in ("on", "true")


def _capabilities(
    balloon: bool, *, reports: bool, deflates: bool, vsock: bool, virtio_mem: bool
) -> Capabilities:
    return Capabilities(
        reports_pages=Answer.of(reports),
        balloon=Answer.of(balloon),
        deflate_on_oom=deflates,
        statistics=Answer.UNKNOWN if balloon else Answer.NO,
        virtio_mem=Answer.of(virtio_mem),
        agent_channel=Answer.of(vsock),
    )


def _channel(path: str, host_path: Callable[[str], str], pid: int) -> Channel:
    return Channel(ChannelKind.HYBRID_VSOCK, path=host_path(path), pid=pid)


def _blockers(options: dict[str, list[dict[str, str]]]) -> list[str]:
    found = [f"--{name} pins all of guest memory" for name in ("device", "vdpa") if name in options]
    platform = options.get("platform", [{}])[0]
    confidential = [name for name in ("sev_snp", "tdx") if _on(platform, name)]
    return found + [
        f"{name}: an encrypted guest's pages are never discarded" for name in confidential
    ]


def from_config(
    vm: VmDescription, config: dict[str, object], host_path: Callable[[str], str]
) -> VmDescription:
    """Describe the VM by `vm.info`, which is right also for one created through the API."""
    memory = answers.node(config, "memory")
    zones = answers.nodes(memory, "zones")
    is_virtio = memory.get("hotplug_method") == "VirtioMem"
    blocks = tuple(
        block
        for part in zones or (memory,)
        for block in _json_blocks(
            (answers.text(part, "id") or "zone") if zones else "ram", part, is_virtio=is_virtio
        )
    )
    plugged = sum(_plugged_bytes(part) for part in zones or (memory,)) if is_virtio else 0
    balloon = answers.node(config, "balloon")
    vsock = answers.text(answers.node(config, "vsock"), "socket")
    pinning = [name for name in ("devices", "vdpa") if answers.nodes(config, name)]
    return replace(
        vm,
        ram_bytes=sum(block.size_bytes for block in blocks if not block.hotplug) + plugged,
        ram_blocks=blocks,
        capabilities=_capabilities(
            bool(balloon),
            reports=answers.truth(balloon, "free_page_reporting"),
            deflates=answers.truth(balloon, "deflate_on_oom"),
            vsock=bool(vsock),
            virtio_mem=any(block.hotplug for block in blocks),
        ),
        channels=(_channel(vsock, host_path, vm.pid),) if vsock else (),
        blockers=tuple(f"{name}: pins all of guest memory" for name in pinning) or vm.blockers,
        unread=(),
    )


def _json_blocks(name: str, memory: dict[str, object], *, is_virtio: bool) -> tuple[RamBlock, ...]:
    text = {key: "on" if value is True else str(value) for key, value in memory.items()}
    # With ACPI hotplug, `size` includes plugged RAM, which lies in separate mappings.
    size_bytes = (answers.size(memory, "size") or 0) + (0 if is_virtio else _plugged_bytes(memory))
    block = replace(_block(name, text), size_bytes=size_bytes)
    return _with_region(block, answers.size(memory, "hotplug_size") or 0, is_virtio=is_virtio)


def _plugged_bytes(memory: dict[str, object]) -> int:
    return answers.size(memory, "hotplugged_size") or 0


def _with_region(block: RamBlock, region_bytes: int, *, is_virtio: bool) -> tuple[RamBlock, ...]:
    """Return the block and the region of its virtio-mem device, which is mapped whole from the start."""
    if not region_bytes:
        return (block,)
    if not is_virtio:
        return (replace(block, grows=True),)
    name = f"{block.name}-virtio-mem"
    return (block, replace(block, name=name, size_bytes=region_bytes, hotplug=True, prealloc=False))
