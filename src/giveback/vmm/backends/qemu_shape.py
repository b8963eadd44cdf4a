"""Describe a VM's devices and memory by QEMU's monitor, which overrides the command line: a VM may change.

Source: qapi/machine.json (query-memdev, query-memory-devices), qapi/char.json (query-chardev), qapi/qom.json;
properties of virtio-balloon-device in hw/virtio/virtio-balloon.c, which each transport passes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from giveback.vmm.backends.qemu_args import DEFAULT_BLOCK
from giveback.vmm.base import (
    AGENT_PORT,
    GUEST_AGENT_PORT,
    PLUGGED_CHARDEV,
    Answer,
    Backing,
    Channel,
    ChannelKind,
    RamBlock,
    VmDescription,
    amount,
)
from giveback.vmm.clients import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback.vmm.clients.qmp import Monitor

_PARENTS = ("/machine/peripheral", "/machine/peripheral-anon")
_CHILDREN_LIMIT = 256
_PATH_LIMIT = 4096
_NAME_LIMIT = 256
_BALLOON = "virtio-balloon"
_PORTS = {
    AGENT_PORT: ChannelKind.VIRTIO_SERIAL,
    GUEST_AGENT_PORT: ChannelKind.QEMU_GUEST_AGENT,
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the VM: its type and its QOM path."""

    kind: str
    path: str


async def devices(session: Monitor) -> tuple[Device, ...] | None:
    """Return the devices configured at the start or plugged in; None if the monitor does not tell."""
    found: list[Device] = []
    for parent in _PARENTS:
        children = await session.ask("qom-list", path=parent)
        if not isinstance(children, list):
            return None
        for child in children[:_CHILDREN_LIMIT]:
            kind = answers.text(answers.node(child), "type")
            if kind.startswith("child<"):
                name = answers.text(answers.node(child), "name")
                found.append(Device(kind[len("child<") : -1], f"{parent}/{name}"))
    return tuple(found)


def balloon_of(listed: Sequence[Device] | None) -> str | None:
    """Return the balloon's QOM path, with or without an id of its own; None if there is none."""
    return next((d.path for d in listed or () if d.kind.startswith(_BALLOON)), None)


async def with_balloon(
    session: Monitor, vm: VmDescription, listed: Sequence[Device] | None, negotiated: Answer
) -> VmDescription:
    """Update the VM's balloon and its features; -global, -set and -readconfig files are then included."""
    if listed is None:
        return vm
    path = balloon_of(listed)
    present = Answer.of(path is not None)
    reports = deflates = None
    if path is not None:
        reports = await session.ask("qom-get", path=path, property="free-page-reporting")
        deflates = await session.ask("qom-get", path=path, property="deflate-on-oom")
    before = vm.capabilities
    # QEMU before 5.1 does not have this property.
    offered = Answer.of(reports) if isinstance(reports, bool) else before.reports_pages
    if path is None:
        offered = Answer.NO
    elif negotiated is Answer.YES:
        offered = Answer.YES
    return replace(
        vm,
        capabilities=replace(
            before,
            balloon=present,
            statistics=present,
            reports_pages=offered,
            deflate_on_oom=deflates if isinstance(deflates, bool) else before.deflate_on_oom,
        ),
    )


async def with_unread(
    session: Monitor,
    vm: VmDescription,
    listed: Sequence[Device] | None,
    own_path: Callable[[str], str],
) -> VmDescription:
    """Fill in by the monitor what a part of the configuration describes that could not be read, if any."""
    if not vm.unread or listed is None:
        return vm
    summary = await session.ask("query-memory-size-summary")
    base = amount(summary.get("base-memory")) if isinstance(summary, dict) else None
    if not base:
        return vm
    backends = await session.ask("query-memdev")
    plugged = await session.ask("query-memory-devices")
    blocks = base_blocks(backends, plugged, base)
    blocks += plugged_blocks(plugged, backends, blocks)
    channels = await _channels(session, listed, own_path, vm.pid)
    ours = any(channel.kind is not ChannelKind.QEMU_GUEST_AGENT for channel in channels)
    plugged_bytes = amount(answers.node(summary).get("plugged-memory", 0)) or 0
    kind = await session.ask("qom-get", path="/machine", property="type")
    answer = await session.ask("query-name")
    name = answers.text(answers.node(answer), "name", _NAME_LIMIT)
    return replace(
        vm,
        name=name + vm.suffix if name and vm.name == f"pid-{vm.pid}{vm.suffix}" else vm.name,
        ram_bytes=base + plugged_bytes,
        ram_blocks=blocks,
        capabilities=replace(
            vm.capabilities,
            virtio_mem=Answer.of(any(d.kind.startswith("virtio-mem") for d in listed)),
            agent_channel=Answer.of(ours),
        ),
        channels=channels,
        machine=vm.machine or (kind.removesuffix("-machine") if isinstance(kind, str) else ""),
        unread=(),
    )


def base_blocks(backends: object, plugged: object, base_bytes: int) -> tuple[RamBlock, ...]:
    """Return the blocks of `query-memdev` that are base memory; DEFAULT_BLOCK if their sizes do not fit."""
    hotplugged = {block.name for block in plugged_blocks(plugged, backends, ())}
    found = []
    for backend in (backends if isinstance(backends, list) else ())[:_CHILDREN_LIMIT]:
        name = answers.text(answers.node(backend), "id", _NAME_LIMIT)
        size_bytes = answers.size(answers.node(backend), "size")
        if name and size_bytes and name not in hotplugged:
            shared = answers.truth(backend, "share")
            prealloc = answers.truth(backend, "prealloc")
            found.append(
                RamBlock(name, size_bytes, Backing.UNKNOWN, shared=shared, prealloc=prealloc)
            )
    if sum(block.size_bytes for block in found) == base_bytes:
        return tuple(found)
    return (RamBlock(DEFAULT_BLOCK, base_bytes, Backing.UNKNOWN),)


def plugged_blocks(
    listed: object, backends: object, known: Sequence[RamBlock]
) -> tuple[RamBlock, ...]:
    """Return the blocks of DIMMs and virtio-mem devices in `query-memory-devices` that are not `known`."""
    shares = {
        answers.text(backend, "id"): answers.truth(backend, "share")
        for backend in (backends if isinstance(backends, list) else ())
        if isinstance(backend, dict)
    }
    names = {block.name for block in known}
    found = []
    for device in (listed if isinstance(listed, list) else ())[:_CHILDREN_LIMIT]:
        kind, data = answers.text(answers.node(device), "type"), answers.node(device, "data")
        name = answers.text(data, "memdev").removeprefix("/objects/")
        size_bytes = answers.size(data, "size" if kind == "dimm" else "max-size")
        if kind in ("dimm", "virtio-mem") and size_bytes and name not in names:
            names.add(name)
            hotplug = kind == "virtio-mem"
            shared = shares.get(name, False)
            block = RamBlock(name, size_bytes, Backing.UNKNOWN, shared=shared, hotplug=hotplug)
            found.append(block)
    return tuple(found)


async def _channels(
    session: Monitor, listed: Sequence[Device], own_path: Callable[[str], str], pid: int
) -> tuple[Channel, ...]:
    """Return the channels into the guest that its devices provide."""
    sockets = chardev_sockets(await session.ask("query-chardev"))
    found = []
    for device in listed:
        if device.kind == "virtserialport":
            name = await session.ask("qom-get", path=device.path, property="name")
            label = await session.ask("qom-get", path=device.path, property="chardev")
            kind = _PORTS.get(name) if isinstance(name, str) else None
            path = sockets.get(label, "") if isinstance(label, str) else ""
            if kind and path:
                found.append(Channel(kind, path=own_path(path), pid=pid))
        elif device.kind.startswith("vhost-vsock"):
            cid = amount(await session.ask("qom-get", path=device.path, property="guest-cid"))
            if cid is not None and cid < 1 << 32:
                found.append(Channel(ChannelKind.VSOCK, cid=cid, pid=pid))
    return tuple(found)


def chardev_sockets(answer: object) -> dict[str, str]:
    """Return by label the unix sockets at which devices of `query-chardev` listen, as QEMU sees them."""
    found = {}
    for entry in (answer if isinstance(answer, list) else ())[:_CHILDREN_LIMIT]:
        words = answers.text(answers.node(entry), "filename", _PATH_LIMIT)
        address, comma, options = words.removeprefix("disconnected:").partition(",server=on")
        if address.startswith("unix:") and (comma or not options):
            found[answers.text(answers.node(entry), "label")] = address.removeprefix("unix:")
    return found


def closed_sockets(answer: object) -> tuple[str, ...]:
    """Return the sockets of `query-chardev` that no program in the guest has opened (since QEMU 2.1)."""
    entries = (answer if isinstance(answer, list) else ())[:_CHILDREN_LIMIT]
    closed = [e for e in entries if answers.node(e).get("frontend-open") is False]
    return tuple(chardev_sockets(closed).values())


def plugged_socket(answer: object) -> str:
    """Return the path of the unix socket in `query-chardev` for PLUGGED_CHARDEV, or ''."""
    return chardev_sockets(answer).get(PLUGGED_CHARDEV, "")
