"""Firecracker: HTTP over a unix socket; what the VM has is told by its API, or by its --config-file.

Source: src/firecracker/swagger/firecracker.yaml of firecracker-microvm/firecracker (commit
004d935399ba), docs/ballooning.md. Never run here against the real program: it needs KVM.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.host.procs import read_own_file
from giveback.vmm.backends.programs import given_name, vmm_of
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

_DEFAULT_SOCKET = "/run/firecracker.socket"
_DEFAULT_RAM_BYTES = 128 << 20
_CONFIG_LIMIT_BYTES = 1 << 20


class FirecrackerBackend(HttpBackend):
    """Finds firecracker processes and asks their API."""

    name = "firecracker"
    _vmm_of = staticmethod(vmm_of)
    without_socket = "with --no-api"

    def _describe(self, process: Process, ours: Callable[[str], str]) -> VmDescription:
        vm = describe(process, ours)
        file = _words(process).get("--config-file")
        if file is None:
            return vm
        data = read_own_file(self._root, process.pid, file, _CONFIG_LIMIT_BYTES)
        config = config_of(data)
        if config is None:
            return replace(vm, unread=(f"--config-file {file} cannot be read",))
        return from_config(vm, config, ours)

    async def _ask(self, session: VmmApi, vm: VmDescription, ours: Callable[[str], str]) -> VmState:
        return await _inspect(session, vm, ours)


async def _inspect(session: VmmApi, vm: VmDescription, ours: Callable[[str], str]) -> VmState:
    instance = answers.node(await session.get("/"))
    config = answers.node(await session.get("/vm/config"))
    hotplug = None
    if answers.node(config, "memory-hotplug"):
        hotplug = answers.node(await session.get("/hotplug/memory"))
    described = from_config(vm, config, ours, answers.mib(hotplug or {}, "plugged_size_mib") or 0)
    stats = None
    if described.capabilities.statistics is Answer.YES:
        stats = answers.node(await session.get("/balloon/statistics"))
    return VmState(
        running=instance.get("state") == "Running",
        ram_bytes=described.ram_bytes,
        balloon_bytes=answers.mib(stats, "actual_mib") if stats else None,
        statistics=parse_statistics(stats) if stats else None,
        statistics_period_s=answers.size(
            answers.node(config, "balloon"), "stats_polling_interval_s"
        ),
        description=described,
    )


def parse_statistics(stats: dict[str, object]) -> BalloonStatistics:
    """`/balloon/statistics`. It carries no time: these are the last ones, however old.

    A guest that never answered has given none of the optional numbers; then the time is 0.
    """
    total = answers.size(stats, "total_memory")
    return BalloonStatistics(
        updated_s=0.0 if total is None else None,
        total_bytes=total,
        free_bytes=answers.size(stats, "free_memory"),
        available_bytes=answers.size(stats, "available_memory"),
        disk_caches_bytes=answers.size(stats, "disk_caches"),
        swap_in_bytes=answers.size(stats, "swap_in"),
        major_faults=answers.size(stats, "major_faults"),
    )


def describe(process: Process, ours: Callable[[str], str]) -> VmDescription:
    """What the command line tells: a name and a socket. The memory is its file's or its API's to tell."""
    words = _words(process)
    socket = "" if "--no-api" in process.argv else words.get("--api-sock", _DEFAULT_SOCKET)
    named = words.get("--id") or given_name(process)
    return VmDescription(
        backend="firecracker",
        name=named or name_of_socket(socket) or f"pid-{process.pid}",
        pid=process.pid,
        ram_bytes=0,
        ram_blocks=(),
        control=ours(socket) if socket else "",
        unread=("the VM was made through the API, which has not told of it",),
    )


def _words(process: Process) -> dict[str, str]:
    """Options that take a value, as `--name value` or `--name=value`; jailer's come before the VM's."""
    words = dict(zip(process.argv, process.argv[1:], strict=False))
    joined = dict(w.split("=", 1) for w in process.argv if w.startswith("--") and "=" in w)
    return words | joined


def config_of(data: bytes | None) -> dict[str, object] | None:
    """What --config-file holds, in the form of `/vm/config`; None for what is no such file."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def from_config(
    vm: VmDescription, config: dict[str, object], ours: Callable[[str], str], plugged_bytes: int = 0
) -> VmDescription:
    """The VM as `/vm/config` has it, or the file that it was started with."""
    machine = answers.node(config, "machine-config")
    base = answers.mib(machine, "mem_size_mib") or 0
    if config and "mem_size_mib" not in machine:
        base = _DEFAULT_RAM_BYTES
    huge = machine.get("huge_pages") == "2M"
    blocks = [
        RamBlock(
            "ram",
            base,
            # A memfd with vhost-user devices, the snapshot's file after a restore, else anonymous.
            Backing.HUGETLB if huge else Backing.UNKNOWN,
            page_bytes=2 << 20 if huge else 4096,
        )
    ]
    region = answers.mib(answers.node(config, "memory-hotplug"), "total_size_mib")
    if region:
        blocks.append(RamBlock("hotplug", region, blocks[0].backing, hotplug=True))
    balloon = answers.node(config, "balloon")
    vsock = answers.text(answers.node(config, "vsock"), "uds_path")
    return replace(
        vm,
        ram_bytes=base + plugged_bytes,
        ram_blocks=tuple(blocks) if base else (),
        capabilities=Capabilities(
            reports_pages=Answer.of(answers.truth(balloon, "free_page_reporting")),
            balloon=Answer.of(bool(balloon)),
            deflate_on_oom=answers.truth(balloon, "deflate_on_oom"),
            statistics=Answer.of(bool(answers.size(balloon, "stats_polling_interval_s"))),
            virtio_mem=Answer.of(bool(region)),
            agent_channel=Answer.of(bool(vsock)),
        ),
        channels=(
            (Channel(ChannelKind.HYBRID_VSOCK, path=ours(vsock), pid=vm.pid),) if vsock else ()
        ),
        unread=() if base else vm.unread,
    )
