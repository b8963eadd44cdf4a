"""QEMU's command line, understood as far as memory goes. Pure: words in, a description out.

Source: QEMU docs/system/invocation, qapi/qom.json (memory-backend-*), util/keyval.c.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

_PROGRAM = re.compile(r"(qemu-system-\w+|qemu-kvm|kvm)(-spice)?(\.real)?$")
_DEFAULT_RAM_BYTES = 128 * MIB
DEFAULT_BLOCK = "ram"
"""Our name for the RAM that -m makes where no backend was named."""
_CONFIDENTIAL = {"sev-guest", "sev-snp-guest", "tdx-guest", "s390-pv-guest", "arm-rme-guest"}
Options = dict[str, str]


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options that matter, in order, each as (option, its properties)."""

    options: tuple[tuple[str, Options], ...]

    def all(self, name: str) -> Iterator[Options]:
        return (properties for option, properties in self.options if option == name)

    def merged(self, name: str) -> Options:
        """All uses of an option put together, as QEMU does for -machine and -m."""
        result: Options = {}
        for properties in self.all(name):
            result.update(properties)
        return result


# option -> the name of its first, nameless property; options here take a value.
_IMPLIED = {
    "m": "size", "machine": "type", "M": "type", "name": "guest", "object": "qom-type",
    "device": "driver", "chardev": "backend", "mon": "chardev", "qmp": "address",
    "qmp-pretty": "address", "numa": "type", "netdev": "type", "overcommit": "", "mem-path": "path",
    "incoming": "uri", "accel": "accel", "uuid": "uuid", "readconfig": "file", "smp": "cpus",
}  # fmt: skip
_ALIASES = {"M": "machine", "qmp-pretty": "qmp"}
_FLAGS = {"mem-prealloc", "S"}


def is_qemu(process: Process) -> bool:
    """True where the program is a QEMU system emulator."""
    return bool(_PROGRAM.match(process.program))


def parse(argv: tuple[str, ...]) -> Arguments:
    """Read a command line (without argv[0]). Options that say nothing of memory are passed over."""
    found = []
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            continue
        option = word.lstrip("-")
        if option in _FLAGS:
            found.append((option, Options()))
        elif option in _IMPLIED:
            value = next(words, "")
            found.append((_ALIASES.get(option, option), properties(value, _IMPLIED[option])))
    return Arguments(tuple(found))


def properties(text: str, implied: str) -> Options:
    """`size=2G,slots=4` or QEMU's JSON form as a dict; values are text, JSON's nested ones JSON."""
    if text.startswith("{"):
        return _from_json(text)
    result: Options = {}
    for index, part in enumerate(_split(text)):
        key, equals, value = part.partition("=")
        if equals:
            result[key] = value
        elif index == 0 and implied:
            result[implied] = part
        elif part:
            result[part.removeprefix("no")] = "off" if part.startswith("no") else "on"
    return result


def _split(text: str) -> Iterator[str]:
    """Split at commas; a doubled comma is one that is meant."""
    return (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))


def _from_json(text: str) -> Options:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {str(k): _plain(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value)


def describe(process: Process, own_path: Callable[[str], str]) -> VmDescription:
    """The VM that a QEMU process runs. `own_path` turns a path of its own into one of ours."""
    arguments = parse(process.argv[1:])
    machine = arguments.merged("machine")
    blocks = _blocks(arguments, machine)
    base = _base_ram_bytes(arguments)
    plugged = sum(b.size_bytes for b in blocks if b.name in _devices_memory(arguments, "pc-dimm"))
    return VmDescription(
        backend="qemu",
        name=_name(arguments, process.pid),
        pid=process.pid,
        ram_bytes=base + plugged + _virtio_mem_bytes(arguments),
        ram_blocks=blocks,
        capabilities=_capabilities(arguments),
        channels=tuple(_channels(arguments, own_path)),
        control=_control(arguments, own_path),
        blockers=tuple(_blockers(arguments, machine)),
        machine=_machine(machine),
        notes=tuple(_notes(arguments)),
    )


def _machine(machine: Options) -> str:
    """The machine's type, and the one option that moves its RAM."""
    hole = machine.get("max-ram-below-4g")
    return machine.get("type", "") + (f",max-ram-below-4g={hole}" if hole else "")


def _name(arguments: Arguments, pid: int) -> str:
    return arguments.merged("name").get("guest") or f"pid-{pid}"


def _base_ram_bytes(arguments: Arguments) -> int:
    text = arguments.merged("m").get("size", "")
    return answers.written(text, default_unit="m") or _DEFAULT_RAM_BYTES


def _virtio_mem_bytes(arguments: Arguments) -> int:
    """What the command line asks of virtio-mem devices; QMP tells what is plugged now."""
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
    """The memory backends that serve as RAM: not those of an NVDIMM or of shared-memory devices."""
    hotplug = _devices_memory(arguments, "virtio-mem")
    used = {machine.get("memory-backend", "")} | hotplug | _devices_memory(arguments, "pc-dimm")
    used |= {numa.get("memdev", "") for numa in arguments.all("numa")}
    prealloc = any(option == "mem-prealloc" for option, _ in arguments.options)
    blocks = [
        _block(thing, hotplug=thing.get("id", "") in hotplug, prealloc=prealloc)
        for thing in arguments.all("object")
        if thing.get("qom-type", "").startswith("memory-backend-") and thing.get("id", "") in used
    ]
    base = {machine.get("memory-backend", "")} | {
        n.get("memdev", "") for n in arguments.all("numa")
    }
    if not any(block.name in base for block in blocks):
        blocks.insert(0, _default_block(arguments, prealloc=prealloc))
    return tuple(blocks)


def _default_block(arguments: Arguments, *, prealloc: bool) -> RamBlock:
    path = arguments.merged("mem-path").get("path", "")
    backing = Backing.FILE if path else Backing.ANONYMOUS
    return RamBlock(DEFAULT_BLOCK, _base_ram_bytes(arguments), backing, path, prealloc=prealloc)


def _block(thing: Options, *, hotplug: bool, prealloc: bool) -> RamBlock:
    kind = thing["qom-type"].removeprefix("memory-backend-")
    huge = _on(thing.get("hugetlb", "off"))
    backing = {"memfd": Backing.MEMFD, "file": Backing.FILE, "shm": Backing.MEMFD}.get(
        kind, Backing.ANONYMOUS
    )
    return RamBlock(
        name=thing.get("id", ""),
        size_bytes=answers.written(thing.get("size", "0")) or 0,
        backing=Backing.HUGETLB if huge else backing,
        path=thing.get("mem-path", ""),
        page_bytes=(answers.written(thing.get("hugetlbsize", "2M")) or 2 * MIB) if huge else 4096,
        prealloc=prealloc or _on(thing.get("prealloc", "off")),
        shared=_on(thing.get("share", "on" if kind in ("memfd", "shm") else "off")),
        hotplug=hotplug,
    )


def _on(value: str) -> bool:
    return value in ("on", "yes", "true", "y")


def _capabilities(arguments: Arguments) -> Capabilities:
    drivers = [device.get("driver", "") for device in arguments.all("device")]
    balloons = [d for d in arguments.all("device") if is_balloon(d.get("driver", ""))]
    reports = any(_on(d.get("free-page-reporting", "off")) for d in balloons)
    ports = {d.get("name") for d in arguments.all("device") if d.get("driver") == "virtserialport"}
    vsock = any(driver.startswith("vhost-vsock") for driver in drivers)
    return Capabilities(
        reports_pages=Answer.of(reports),
        balloon=Answer.of(bool(balloons)),
        deflate_on_oom=any(_on(d.get("deflate-on-oom", "off")) for d in balloons),
        statistics=Answer.of(bool(balloons)),
        virtio_mem=Answer.of(any(driver.startswith("virtio-mem") for driver in drivers)),
        agent_channel=Answer.of(AGENT_PORT in ports or vsock),
    )


def is_balloon(driver: str) -> bool:
    """True for every spelling of the balloon device, whatever bus it is on."""
    return driver.startswith("virtio-balloon")


def _channels(arguments: Arguments, own_path: Callable[[str], str]) -> Iterator[Channel]:
    chardevs = {chardev.get("id", ""): chardev for chardev in arguments.all("chardev")}
    kinds = {AGENT_PORT: ChannelKind.VIRTIO_SERIAL, GUEST_AGENT_PORT: ChannelKind.QEMU_GUEST_AGENT}
    for device in arguments.all("device"):
        if device.get("driver") == "virtserialport" and device.get("name") in kinds:
            path = _listening_path(chardevs.get(device.get("chardev", ""), {}))
            if path:
                yield Channel(kinds[device["name"]], path=own_path(path))
        elif device.get("driver", "").startswith("vhost-vsock"):
            cid = device.get("guest-cid", "")
            if cid.isascii() and cid.isdigit() and len(cid) <= 10:
                yield Channel(ChannelKind.VSOCK, cid=int(cid))


def _listening_path(chardev: Options) -> str:
    """The unix socket on which this character device listens, or ''."""
    listens = _on(chardev.get("server", "off"))
    return chardev.get("path", "") if chardev.get("backend") == "socket" and listens else ""


def _control(arguments: Arguments, own_path: Callable[[str], str]) -> str:
    """The first QMP socket that listens: a path of ours, or `host:port`."""
    chardevs = {chardev.get("id", ""): chardev for chardev in arguments.all("chardev")}
    for qmp in arguments.all("qmp"):
        kind, _, address = qmp.get("address", "").partition(":")
        if not _on(qmp.get("server", "off")):
            continue
        if kind == "unix":
            return own_path(address)
        if kind == "tcp":
            return address
    for monitor in arguments.all("mon"):
        path = _listening_path(chardevs.get(monitor.get("chardev", ""), {}))
        if monitor.get("mode") == "control" and path:
            return own_path(path)
    return ""


def _blockers(arguments: Arguments, machine: Options) -> Iterator[str]:
    """Why QEMU would silently keep pages that the guest reports (its ram_block_discard_disable)."""
    for device in arguments.all("device"):
        driver = device.get("driver", "")
        if driver.startswith(("vfio-", "vhost-vdpa")):
            yield f"device {driver} pins all of guest memory"
    if any(netdev.get("type") == "vhost-vdpa" for netdev in arguments.all("netdev")):
        yield "netdev vhost-vdpa pins all of guest memory"
    for thing in arguments.all("object"):
        if thing.get("qom-type") in _CONFIDENTIAL:
            yield f"object {thing['qom-type']}: an encrypted guest's pages are never discarded"
    if "memory-encryption" in machine:
        yield "machine memory-encryption: an encrypted guest's pages are never discarded"
    lock = arguments.merged("overcommit").get("mem-lock", "off")
    if _on(lock) or lock == "on-fault":
        yield f"overcommit mem-lock={lock}: memory is locked"


def _notes(arguments: Arguments) -> Iterator[str]:
    if any(arguments.all("readconfig")):
        yield "-readconfig: options in that file are not seen here"
    if any(
        chardev.get("backend") == "socket" and "fd" in chardev
        for chardev in arguments.all("chardev")
    ):
        yield "a socket was handed over as a descriptor: libvirt or another manager holds it"
