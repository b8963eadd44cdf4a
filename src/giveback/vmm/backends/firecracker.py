"""The Firecracker backend: HTTP over a unix socket. Its API, or its --config-file, describes the VM.

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
    """The backend that recognises firecracker processes and asks their API."""

    name = "firecracker"
    _vmm_of = staticmethod(vmm_of)
    without_socket = "with --no-api"

    def _describe(self, process: Process, host_path: Callable[[str], str]) -> VmDescription:
        vm = describe(process, host_path)
        file = _words(process).get("--config-file")
        if file is None:
            return vm
        data = read_own_file(self._root, process.pid, file, _CONFIG_LIMIT_BYTES)
        config = config_of(data)
        if config is None:
            return replace(vm, unread=(f"--config-file {file} cannot be read",))
        return from_config(vm, config, host_path)

    async def _ask(
        self, session: VmmApi, vm: VmDescription, host_path: Callable[[str], str]
    ) -> VmState:
        return await _inspect(session, vm, host_path)


async def _inspect(session: VmmApi, vm: VmDescription, host_path: Callable[[str], str]) -> VmState:
    instance = answers.node(await session.get("/"))
    config = answers.node(await session.get("/vm/config"))
    hotplug = None
    if answers.node(config, "memory-hotplug"):
        hotplug = answers.node(await session.get("/hotplug/memory"))
    described = from_config(
        vm, config, host_path, answers.mib(hotplug or {}, "plugged_size_mib") or 0
    )
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
    """Parse `/balloon/statistics`. It has no time: these are the last numbers, of unknown age.

    If the optional numbers are absent, the guest has never answered, and `updated_s` is 0.
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


def describe(process: Process, host_path: Callable[[str], str]) -> VmDescription:
    """Describe the VM by its command line: a name and a socket. Only its file or its API has the memory."""
    words = _words(process)
    socket = "" if "--no-api" in process.argv else words.get("--api-sock", _DEFAULT_SOCKET)
    named = words.get("--id") or given_name(process)
    return VmDescription(
        backend="firecracker",
        name=named or name_of_socket(socket) or f"pid-{process.pid}",
        pid=process.pid,
        ram_bytes=0,
        ram_blocks=(),
        control=host_path(socket) if socket else "",
        unread=("the VM was created through the API, which has not described it",),
    )


def _words(process: Process) -> dict[str, str]:
    """Return options with a value, as `--name value` or `--name=value`; later ones override jailer's."""
    words = dict(zip(process.argv, process.argv[1:], strict=False))
    joined = dict(w.split("=", 1) for w in process.argv if w.startswith("--") and "=" in w)
    return words | joined


def config_of(data: bytes | None) -> dict[str, object] | None:
    """Parse a --config-file, which has the form of `/vm/config`; None if it is malformed."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def from_config(
    vm: VmDescription,
    config: dict[str, object],
    host_path: Callable[[str], str],
    plugged_bytes: int = 0,
) -> VmDescription:
    """Describe the VM by `/vm/config`, or by the --config-file that it was started with."""
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
            (Channel(ChannelKind.HYBRID_VSOCK, path=host_path(vsock), pid=vm.pid),) if vsock else ()
        ),
        unread=() if base else vm.unread,
    )
