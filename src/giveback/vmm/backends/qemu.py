"""The QEMU backend: a VM is a process, described by its command line and asked over its QMP socket."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.host.procs import TOO_LONG, Process, own_path, read_own_file
from giveback.vmm.backends import qemu_args, qemu_shape
from giveback.vmm.backends.programs import vmm_of
from giveback.vmm.backends.qemu_options import CONFIG_LIMIT_BYTES, Arguments, parse
from giveback.vmm.base import (
    Answer,
    BalloonStatistics,
    Channel,
    ChannelKind,
    GuestRange,
    VmDescription,
    VmState,
    amount,
)
from giveback.vmm.clients import answers

if TYPE_CHECKING:
    from giveback.vmm.clients.qmp import Monitor

_RAM_LINE = re.compile(
    r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\): (\S+)(?: @([0-9a-f]{16}))?(?: KVM)?$",
    re.MULTILINE,
)
_HOST_ADDRESS = re.compile(r"Host virtual address for 0x[0-9a-f]{1,16} .* is 0x([0-9a-f]{1,16})")
_RANGES_LIMIT = 256
POLLING = "guest-stats-polling-interval"
_FEATURE = re.compile(r"VIRTIO_BALLOON_F_(\w+)")
# Capabilities in query-migrate-capabilities that prevent or undo discards while they are on.
_KEEPING = {
    "postcopy-ram": "postcopy migration",
    "background-snapshot": "background snapshot",
    "x-colo": "COLO",
}


class QemuBackend:
    """The backend that recognises QEMU processes and asks them over QMP."""

    name = "qemu"
    layout_taints = False

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def recognise(self, process: Process) -> VmDescription | None:
        """Implement `Backend`."""
        arguments = self.arguments(process)
        if arguments is None:
            return None
        return qemu_args.describe(process, partial(own_path, self._root, process.pid), arguments)

    def arguments(self, process: Process) -> Arguments | None:
        """Return the options that a QEMU was started with, including its -readconfig files.

        None for another program, and for a device model of Xen: its guest's RAM belongs to Xen and cannot
        be returned from here.
        """
        if vmm_of(process) != self.name:
            return None
        arguments = parse(process.argv[1:], partial(self._config, process.pid))
        if process.cut:
            arguments = replace(arguments, unread=(TOO_LONG, *arguments.unread))
        return None if qemu_args.is_xen(arguments) else arguments

    def _config(self, pid: int, path: str) -> str | None:
        data = read_own_file(self._root, pid, path, CONFIG_LIMIT_BYTES)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        """Implement `Backend`."""
        if not vm.control:
            why = "QEMU was started without a QMP socket that giveback can use"
            return VmState(problems=(why, *vm.unread))
        # qemu.qmp takes 60 ms to import: `giveback --help` does not need it.
        from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

        try:
            async with monitor(vm.control, vm.pid, timeout_s) as session:
                listed = await qemu_shape.devices(session)
                state = await _inspect(session, qemu_shape.balloon_of(listed), layout=layout)
                own = partial(own_path, self._root, vm.pid)
                negotiated = state.reporting_negotiated
                now = await qemu_shape.with_balloon(session, vm, listed, negotiated)
                now = await qemu_shape.with_unread(session, now, listed, own)
                chardevs = await session.ask("query-chardev")
                now = self._with_late_port(now, chardevs)
                now = await _with_late_memory(session, now, state.ram_bytes)
                closed = frozenset(map(own, qemu_shape.closed_sockets(chardevs)))
                state = replace(_with_default_block(now, state), closed_ports=closed)
                return state if now == vm else replace(state, description=now)
        except VmError as error:
            return VmState(problems=(str(error), *vm.unread))

    def _with_late_port(self, vm: VmDescription, chardevs: object) -> VmDescription:
        """Add an agent's port that was plugged in later, which the command line does not show."""
        if any(channel.kind is ChannelKind.VIRTIO_SERIAL for channel in vm.channels):
            return vm
        path = qemu_shape.plugged_socket(chardevs)
        return with_port(vm, own_path(self._root, vm.pid, path)) if path else vm


def with_port(vm: VmDescription, path: str) -> VmDescription:
    """Return the VM with its agent's port at this socket, before its other channels."""
    channel = Channel(ChannelKind.VIRTIO_SERIAL, path=path, pid=vm.pid)
    capabilities = replace(vm.capabilities, agent_channel=Answer.YES)
    return replace(vm, channels=(channel, *vm.channels), capabilities=capabilities)


async def _with_late_memory(session: Monitor, vm: VmDescription, ram: int | None) -> VmDescription:
    """Add memory that was plugged in later, if the VM has more than its command line shows."""
    if ram is None or ram <= vm.ram_bytes:
        return vm
    devices = await session.ask("query-memory-devices")
    blocks = qemu_shape.plugged_blocks(devices, await session.ask("query-memdev"), vm.ram_blocks)
    return replace(vm, ram_bytes=ram, ram_blocks=(*vm.ram_blocks, *blocks)) if blocks else vm


def _with_default_block(vm: VmDescription, state: VmState) -> VmState:
    """Rename the RAM created by -m from QEMU's name (`pc.ram`, `microvm.ram`, …) to DEFAULT_BLOCK."""
    if all(block.name != qemu_args.DEFAULT_BLOCK for block in vm.ram_blocks):
        return state
    given = {block.name for block in vm.ram_blocks}
    ranges = tuple(replace(r, block=_our_name(r.block, given)) for r in state.layout)
    addresses = {_our_name(name, given): a for name, a in state.host_addresses.items()}
    return replace(state, layout=ranges, host_addresses=addresses)


def _our_name(block: str, given: set[str]) -> str:
    return qemu_args.DEFAULT_BLOCK if block.endswith(".ram") and block not in given else block


async def _inspect(session: Monitor, device: str | None, *, layout: bool) -> VmState:
    status = await session.ask("query-status")
    base = await session.ask("query-memory-size-summary")
    balloon = await session.ask("query-balloon")
    ram = ram_bytes(base)
    virtio = statistics = period_s = None
    if device is not None:
        period_s = await session.ask("qom-get", path=device, property=POLLING)
        statistics = await session.ask("qom-get", path=device, property="guest-stats")
        virtio = await _virtio_status(session, device)
    ranges: tuple[GuestRange, ...] = ()
    addresses: dict[str, int] = {}
    blockers: tuple[str, ...] = ()
    if layout:
        ranges = parse_layout(await session.ask_human("info mtree -f"))
        addresses = await _host_addresses(session, ranges)
        blockers = capability_blockers(await session.ask("query-migrate-capabilities"))
    features = guest_features(virtio)
    return VmState(
        running=status.get("running") is True if isinstance(status, dict) else None,
        ram_bytes=ram,
        balloon_bytes=balloon_bytes(balloon, ram),
        statistics=parse_statistics(statistics),
        statistics_period_s=amount(period_s),
        reporting_negotiated=reporting(features),
        driver_features=features or frozenset(),
        layout=ranges,
        host_addresses=addresses,
        blockers=blockers,
    )


async def balloon_path(session: Monitor) -> str | None:
    """Return the balloon device's QOM path, with or without an id of its own; None if there is none."""
    return qemu_shape.balloon_of(await qemu_shape.devices(session))


async def _virtio_status(session: Monitor, device: str) -> object:
    for path in (f"{device}/virtio-backend", device):
        answer = await session.ask("x-query-virtio-status", path=path)
        if answer is not None:
            return answer
    return None


async def _host_addresses(session: Monitor, ranges: tuple[GuestRange, ...]) -> dict[str, int]:
    """Return each block's start in QEMU's address space, from the address of one of its pages."""
    addresses: dict[str, int] = {}
    for place in ranges[:_RANGES_LIMIT]:
        if place.block not in addresses:
            text = await session.ask_human(f"gpa2hva {place.guest_start:#x}")
            address = parse_host_address(text)
            if address is not None:
                addresses[place.block] = address - place.block_offset
    return addresses


def ram_bytes(summary: object) -> int | None:
    """Return base memory plus plugged memory (DIMMs, virtio-mem) of `query-memory-size-summary`, in bytes."""
    if not isinstance(summary, dict):
        return None
    base, plugged = amount(summary.get("base-memory")), amount(summary.get("plugged-memory", 0))
    return None if base is None else base + (plugged or 0)


def balloon_bytes(answer: object, ram: int | None) -> int | None:
    """Return the size of the balloon in bytes: RAM minus what `query-balloon` says the guest keeps."""
    actual = amount(answer.get("actual")) if isinstance(answer, dict) else None
    return None if actual is None or ram is None else max(0, ram - actual)


def parse_statistics(answer: object) -> BalloonStatistics | None:
    """Parse `guest-stats`; a value that the guest did not send is all ones there, and None here."""
    if not isinstance(answer, dict) or not isinstance(answer.get("stats"), dict):
        return None
    stats: dict[str, object] = answer["stats"]
    return BalloonStatistics(
        updated_s=float(amount(answer.get("last-update")) or 0),
        total_bytes=amount(stats.get("stat-total-memory")),
        free_bytes=amount(stats.get("stat-free-memory")),
        available_bytes=amount(stats.get("stat-available-memory")),
        disk_caches_bytes=amount(stats.get("stat-disk-caches")),
        swap_in_bytes=amount(stats.get("stat-swap-in")),
        major_faults=amount(stats.get("stat-major-faults")),
    )


def guest_features(answer: object) -> frozenset[str] | None:
    """Return the balloon features that the driver accepted; empty if there is no driver yet, None unknown."""
    features = answer.get("guest-features") if isinstance(answer, dict) else None
    listed = features.get("dev-features") if isinstance(features, dict) else None
    if not isinstance(listed, list):
        return None
    found = (_FEATURE.match(entry) for entry in listed if isinstance(entry, str))
    return frozenset(match.group(1) for match in found if match)


def reporting(features: frozenset[str] | None) -> Answer:
    """Return whether the guest's driver accepted free page reporting."""
    return Answer.of(None if features is None else "REPORTING" in features)


def capability_blockers(answer: object) -> tuple[str, ...]:
    """Return the reasons in active migration capabilities why QEMU discards no reported pages."""
    entries = answer if isinstance(answer, list) else []
    on = {
        answers.text(entry, "capability")
        for entry in entries
        if isinstance(entry, dict) and entry.get("state") is True
    }
    return tuple(
        f"{what} is enabled: QEMU discards no reported pages during it"
        for capability, what in _KEEPING.items()
        if capability in on
    )


def parse_layout(text: str) -> tuple[GuestRange, ...]:
    """Parse `info mtree -f` into the layout of guest RAM: the RAM of the address space `memory`.

    Ranges that continue each other are joined: QEMU splits them at 640 KiB and 1 MiB.
    """
    view = next((v for v in text.split("FlatView #") if 'AS "memory"' in v), "")
    ranges: list[GuestRange] = []
    for first, last, block, offset in _RAM_LINE.findall(view):
        start, size = int(first, 16), int(last, 16) + 1 - int(first, 16)
        if size <= 0:
            continue
        found = GuestRange(start, size, block, int(offset or "0", 16))
        if ranges and _continues(ranges[-1], found):
            before = ranges.pop()
            found = GuestRange(
                before.guest_start, before.size_bytes + size, block, before.block_offset
            )
        ranges.append(found)
    return tuple(ranges)


def _continues(first: GuestRange, second: GuestRange) -> bool:
    return (
        first.block == second.block
        and first.guest_start + first.size_bytes == second.guest_start
        and first.block_offset + first.size_bytes == second.block_offset
    )


def parse_host_address(text: str) -> int | None:
    """Parse the answer of `gpa2hva` into the address in QEMU's address space; None if it has none."""
    match = _HOST_ADDRESS.match(text)
    return int(match.group(1), 16) if match else None
