"""Describe a VM by QEMU's command line, as far as memory is concerned. Pure.

An option that is not on the command line has QEMU's default; if a part of the configuration could not be
read (a -readconfig file), it is unknown. Source: QEMU docs/system/invocation, qapi/qom.json
(memory-backend-*), qemu_resolve_machine_memdev() and set_memory_options() in system/vl.c.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from giveback.vmm.backends.programs import given_name
from giveback.vmm.backends.qemu_options import (
    Arguments,
    Options,
    is_handed_over,
    is_on,
    listening_address,
    parse,
)
from giveback.vmm.base import (
    AGENT_PORT,
    GUEST_AGENT_PORT,
    Answer,
    Backing,
    Capabilities,
    Channel,
    ChannelKind,
    RamBlock,
    VmDescription,
)
from giveback.vmm.clients import answers
from giveback_kernel.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from giveback.host.procs import Process

_DEFAULT_RAM_BYTES = 128 * MIB
_DEFAULTED = re.compile(r"|pc(-.*)?|q35|isapc|microvm|virt(-.*)?|s390-ccw-virtio(-.*)?")
"""Machine types whose RAM is _DEFAULT_RAM_BYTES if no option gives its size."""
_RAM_ALIGNMENT_BYTES = 8192
_CHANNELS_LIMIT = 16
_BLOCKERS_LIMIT = 16
_DRIVER_LIMIT = 64
DEFAULT_BLOCK = "ram"
"""Our name for the RAM that -m creates if no memory backend is given."""
_CONFIDENTIAL = {"sev-guest", "sev-snp-guest", "tdx-guest", "s390-pv-guest", "arm-rme-guest"}


def is_xen(arguments: Arguments) -> bool:
    """Tell whether this is a device model of Xen: its guest's RAM belongs to Xen and is not in this process.

    KVM with Xen's interface (-accel kvm,xen-version=…) is not.
    """
    machine = arguments.merged("machine")
    accels = [a.get("accel", "") for a in arguments.all("accel")] or [machine.get("accel", "")]
    words = {group for group, _ in arguments.options} & {"xen-domid", "xen-attach", "xen-create"}
    return bool(
        words
        or machine.get("type", "").startswith("xen")
        or any(accel.split(":")[0] == "xen" for accel in accels)
    )


def describe(
    process: Process, own_path: Callable[[str], str], arguments: Arguments | None = None
) -> VmDescription:
    """Describe the VM that a QEMU process runs. `own_path` converts the process's paths to the host's.

    `arguments` is its parsed command line with the files that it names; None to parse it here.
    """
    arguments = parse(process.argv[1:]) if arguments is None else arguments
    machine = arguments.merged("machine")
    blocks = _blocks(arguments, machine)
    base = _base_ram_bytes(arguments, machine)
    dimms = _devices_memory(arguments, "pc-dimm")
    plugged = sum(block.size_bytes for block in blocks if block.name in dimms)
    return VmDescription(
        backend="qemu",
        name=arguments.merged("name").get("guest") or given_name(process) or f"pid-{process.pid}",
        pid=process.pid,
        ram_bytes=base + plugged + _virtio_mem_bytes(arguments) if base else 0,
        ram_blocks=blocks if base else (),
        capabilities=_capabilities(arguments),
        channels=tuple(
            dict.fromkeys(islice(_channels(arguments, own_path, process.pid), _CHANNELS_LIMIT))
        ),
        control=control_of(arguments, own_path),
        blockers=tuple(islice(dict.fromkeys(_blockers(arguments, machine)), _BLOCKERS_LIMIT)),
        machine=_machine(machine),
        notes=tuple(_notes(arguments)),
        unread=arguments.unread,
    )


def _machine(machine: Options) -> str:
    """Return the machine's type, with the one option that moves its RAM."""
    hole = machine.get("max-ram-below-4g")
    return machine.get("type", "") + (f",max-ram-below-4g={hole}" if hole else "")


def _base_ram_bytes(arguments: Arguments, machine: Options) -> int:
    """Return the size of -m, -machine memory.size= or a backend, else the machine's default; 0 if unknown."""
    found: int | None = None
    named = False
    for group, settings in arguments.options:
        text = settings.get({"memory": "size", "machine": "memory.size"}.get(group, ""), "")
        if text:
            # Only `-m` has MiB as its default unit.
            found = answers.written(text, default_unit="m" if group == "memory" else "b")
            named = True
    if found:
        return -(-found // _RAM_ALIGNMENT_BYTES) * _RAM_ALIGNMENT_BYTES
    if named and found is None:
        return 0
    backend = arguments.by_id("object").get(machine.get("memory-backend", ""), {})
    size_bytes = answers.written(backend.get("size", ""))
    if size_bytes:
        return size_bytes
    is_usual = not arguments.unread and _DEFAULTED.fullmatch(machine.get("type", ""))
    return _DEFAULT_RAM_BYTES if is_usual else 0


def _virtio_mem_bytes(arguments: Arguments) -> int:
    """Return the requested size of virtio-mem devices; only QMP tells what is plugged at present."""
    return sum(
        answers.written(device.get("requested-size", "0")) or 0
        for device in arguments.all("device")
        if device.get("driver", "").startswith("virtio-mem")
    )


def _devices_memory(arguments: Arguments, driver: str) -> set[str]:
    return {
        device.get("memdev", "")
        for device in arguments.all("device")
        if device.get("driver", "").startswith(driver)
    }


def _blocks(arguments: Arguments, machine: Options) -> tuple[RamBlock, ...]:
    """Return the memory backends that are RAM, without those of NVDIMMs and shared-memory devices."""
    hotplug = _devices_memory(arguments, "virtio-mem")
    base = {machine.get("memory-backend", "")} | {
        numa.get("memdev", "") for numa in arguments.all("numa")
    }
    used = base | hotplug | _devices_memory(arguments, "pc-dimm")
    prealloc = any(option == "mem-prealloc" for option, _ in arguments.options)
    blocks = [
        _block(thing, hotplug=thing.get("id", "") in hotplug, prealloc=prealloc)
        for thing in arguments.all("object")
        if thing.get("qom-type", "").startswith("memory-backend-") and thing.get("id", "") in used
    ]
    if not any(block.name in base for block in blocks):
        size_bytes = _base_ram_bytes(arguments, machine)
        blocks.insert(0, _default_block(arguments, size_bytes, prealloc=prealloc))
    return tuple(blocks)


def _default_block(arguments: Arguments, size_bytes: int, *, prealloc: bool) -> RamBlock:
    path = arguments.merged("mem-path").get("value", "")
    # A file that could not be read may name a backend.
    backing = Backing.UNKNOWN if arguments.unread else Backing.ANONYMOUS
    return RamBlock(
        DEFAULT_BLOCK, size_bytes, Backing.FILE if path else backing, path, prealloc=prealloc
    )


def _block(thing: Options, *, hotplug: bool, prealloc: bool) -> RamBlock:
    kind = thing["qom-type"].removeprefix("memory-backend-")
    huge = is_on(thing.get("hugetlb", "off"))
    backing = {"memfd": Backing.MEMFD, "file": Backing.FILE, "shm": Backing.MEMFD}.get(
        kind, Backing.ANONYMOUS
    )
    return RamBlock(
        name=thing.get("id", ""),
        size_bytes=answers.written(thing.get("size", "0")) or 0,
        backing=Backing.HUGETLB if huge else backing,
        path=thing.get("mem-path", ""),
        page_bytes=(answers.written(thing.get("hugetlbsize", "2M")) or 2 * MIB) if huge else 4096,
        prealloc=prealloc or is_on(thing.get("prealloc", "off")),
        shared=is_on(thing.get("share", "on" if kind in ("memfd", "shm") else "off")),
        hotplug=hotplug,
    )


def _capabilities(arguments: Arguments) -> Capabilities:
    """Return the features of the devices; a missing one is unknown if a file could not be read."""
    drivers = [device.get("driver", "") for device in arguments.all("device")]
    balloons = [d for d in arguments.all("device") if is_balloon(d.get("driver", ""))]
    reports = any(is_on(d.get("free-page-reporting", "off")) for d in balloons)
    ports = {d.get("name") for d in arguments.all("device") if d.get("driver") == "virtserialport"}
    vsock = any(driver.startswith("vhost-vsock") for driver in drivers)

    def answer(*, seen: bool) -> Answer:
        return Answer.of(seen or (None if arguments.unread else False))

    return Capabilities(
        # A file's [global] section may change the properties of a device on the command line, too.
        reports_pages=answer(seen=reports),
        balloon=answer(seen=bool(balloons)),
        deflate_on_oom=any(is_on(d.get("deflate-on-oom", "off")) for d in balloons),
        statistics=answer(seen=bool(balloons)),
        virtio_mem=answer(seen=any(driver.startswith("virtio-mem") for driver in drivers)),
        agent_channel=answer(seen=AGENT_PORT in ports or vsock),
    )


def is_balloon(driver: str) -> bool:
    """Tell whether it is the balloon device, in any spelling and on any bus."""
    return driver.startswith("virtio-balloon")


def _channels(arguments: Arguments, own_path: Callable[[str], str], pid: int) -> Iterator[Channel]:
    chardevs = arguments.by_id("chardev")
    kinds = {AGENT_PORT: ChannelKind.VIRTIO_SERIAL, GUEST_AGENT_PORT: ChannelKind.QEMU_GUEST_AGENT}
    for device in arguments.all("device"):
        if device.get("driver") == "virtserialport" and device.get("name") in kinds:
            address = listening_address(chardevs.get(device.get("chardev", ""), {}))
            if _is_socket(address):
                yield Channel(kinds[device["name"]], path=_host_address(address, own_path), pid=pid)
        elif device.get("driver", "").startswith("vhost-vsock"):
            cid = device.get("guest-cid", "")
            if cid.isascii() and cid.isdigit() and len(cid) <= 10:
                yield Channel(ChannelKind.VSOCK, cid=int(cid), pid=pid)


def _is_socket(address: str) -> bool:
    """Tell whether it is a unix socket's address: a path, or `@name`. TCP's has a colon and no slash."""
    return bool(address) and (address[0] == "@" or "/" in address or ":" not in address)


def _host_address(address: str, own_path: Callable[[str], str]) -> str:
    """Convert a path for use from the host; abstract names and TCP addresses stay as they are."""
    return own_path(address) if _is_socket(address) and address[0] != "@" else address


def control_of(arguments: Arguments, own_path: Callable[[str], str]) -> str:
    """Return the address of the first listening QMP socket: a path, `@name` or `host:port`; '' if none."""
    chardevs = arguments.by_id("chardev")
    for monitor in arguments.all("mon"):
        address = listening_address(chardevs.get(monitor.get("chardev", ""), {}))
        if monitor.get("mode") == "control" and address:
            return _host_address(address, own_path)
    return ""


def _blockers(arguments: Arguments, machine: Options) -> Iterator[str]:
    """Yield why QEMU would silently not discard pages that the guest reports (ram_block_discard_disable)."""
    for device in arguments.all("device"):
        driver = device.get("driver", "")
        if driver.startswith(("vfio-", "vhost-vdpa")):
            yield f"device {driver[:_DRIVER_LIMIT]} pins all of guest memory"
    if any(netdev.get("type") == "vhost-vdpa" for netdev in arguments.all("netdev")):
        yield "netdev vhost-vdpa pins all of guest memory"
    for thing in arguments.all("object"):
        if thing.get("qom-type") in _CONFIDENTIAL:
            yield f"object {thing['qom-type']}: an encrypted guest's pages are never discarded"
    if "memory-encryption" in machine:
        yield "machine memory-encryption: an encrypted guest's pages are never discarded"
    if is_on(arguments.merged("realtime").get("mlock", "off")):
        yield "realtime mlock=on: memory is locked"
    lock = arguments.merged("overcommit").get("mem-lock", "off")
    if is_on(lock) or lock == "on-fault":
        yield f"overcommit mem-lock={lock}: memory is locked"


def _notes(arguments: Arguments) -> Iterator[str]:
    if any(is_handed_over(chardev) for chardev in arguments.all("chardev")):
        yield "QEMU inherited a socket as a descriptor: libvirt or another manager holds it"
