"""What every hypervisor backend says of a VM, and the Protocol that all of them follow.

What a backend can do is data (`Capabilities`), never a method that may or may not be there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.host.procs import Process

AGENT_PORT = "org.giveback.agent.0"
"""The virtio-serial port on which the guest's agent is spoken to."""
GUEST_AGENT_PORT = "org.qemu.guest_agent.0"
PLUGGED_CHARDEV = "giveback-agent"
"""What QEMU calls the socket of an agent's port that was plugged into a running VM."""
_NAME_LIMIT = 64
BYTES_LIMIT = 1 << 57
"""No processor addresses more: a larger amount is nonsense or a lie."""


class Backing(StrEnum):
    """What a block of guest RAM is made of on the host."""

    ANONYMOUS = "anonymous"
    MEMFD = "memfd"
    FILE = "file"
    HUGETLB = "hugetlb"
    UNKNOWN = "unknown"


class Answer(StrEnum):
    """A question about a VM that not every VMM answers."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, value: bool | None) -> Answer:
        return cls.UNKNOWN if value is None else cls.YES if value else cls.NO


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A block of guest RAM as the VMM was asked for it. `path` is the file behind it, or ''."""

    name: str
    size_bytes: int
    backing: Backing = Backing.ANONYMOUS
    path: str = ""
    page_bytes: int = 4096
    prealloc: bool = False
    shared: bool = False
    hotplug: bool = False
    """Of a virtio-mem device: not all of it need be plugged."""
    grows: bool = False
    """More of it may be plugged in while the VM runs, at guest addresses of its own."""


@dataclass(frozen=True, slots=True)
class GuestRange:
    """Where guest addresses lie in a block: the hole below 4 GiB makes two ranges of one block."""

    guest_start: int
    size_bytes: int
    block: str
    block_offset: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be had of this VM through its VMM."""

    reports_pages: Answer = Answer.UNKNOWN
    """The VMM offers free page reporting; whether the guest took it is `VmState`'s to say."""
    balloon: Answer = Answer.UNKNOWN
    deflate_on_oom: bool = False
    statistics: Answer = Answer.UNKNOWN
    virtio_mem: Answer = Answer.UNKNOWN
    agent_channel: Answer = Answer.UNKNOWN


class ChannelKind(StrEnum):
    """How bytes reach the guest."""

    VIRTIO_SERIAL = "virtio-serial"
    VSOCK = "vsock"
    HYBRID_VSOCK = "hybrid-vsock"
    QEMU_GUEST_AGENT = "qemu-guest-agent"


@dataclass(frozen=True, slots=True)
class Channel:
    """A way into the guest: a unix socket's path, or a vsock CID.

    `pid` is the VM's process: it must listen at `path` itself, or nothing is sent there.
    """

    kind: ChannelKind
    path: str = ""
    cid: int = 0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class VmDescription:
    """A running VM as its process shows it, before anything was asked of it.

    `name` comes from a command line and may hold any character: print it through `giveback_kernel.escaping`.
    `ram_bytes` is 0, and there are no blocks, where the size of RAM is not known.
    """

    backend: str
    name: str
    pid: int
    ram_bytes: int
    ram_blocks: tuple[RamBlock, ...]
    capabilities: Capabilities = Capabilities()
    channels: tuple[Channel, ...] = ()
    control: str = ""
    """The address of the VMM's control socket; '' where there is none that we may use."""
    blockers: tuple[str, ...] = ()
    """What on the command line makes the VMM keep pages that the guest reports."""
    machine: str = ""
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    """Parts of its configuration that could not be read: what is not seen here is then unknown."""
    domain: str = ""
    """What libvirt calls it, where it is libvirt's."""
    suffix: str = ""
    """What `name` ends with where another user's VM was given it: `@uid1001`."""

    @property
    def block_bytes(self) -> int:
        """The size of all blocks, plugged or not."""
        return sum(block.size_bytes for block in self.ram_blocks)


@dataclass(frozen=True, slots=True)
class BalloonStatistics:
    """The guest's own numbers through the balloon device: bounded, but believed no further.

    `updated_s` is the wall-clock time of the guest's last answer; 0: it never gave one; None:
    the VMM does not say. A guest that is stuck freezes these numbers silently, and only this tells.
    """

    updated_s: float | None
    total_bytes: int | None = None
    free_bytes: int | None = None
    available_bytes: int | None = None
    disk_caches_bytes: int | None = None
    swap_in_bytes: int | None = None
    major_faults: int | None = None
    """Both since the guest's boot."""


@dataclass(frozen=True, slots=True)
class VmState:
    """What the VMM answered. Fields stay empty where it did not; `problems` says why."""

    running: bool | None = None
    ram_bytes: int | None = None
    """Base memory and what is plugged, now."""
    balloon_bytes: int | None = None
    """What the balloon holds, now."""
    statistics: BalloonStatistics | None = None
    statistics_period_s: int | None = None
    """How often the VMM asks the guest for them; 0: not at all, None: it does not say."""
    reporting_negotiated: Answer = Answer.UNKNOWN
    driver_features: frozenset[str] = frozenset()
    layout: tuple[GuestRange, ...] = ()
    host_addresses: Mapping[str, int] = field(default_factory=dict)
    """Where each block lies in the VMM's address space, where the VMM says so."""
    blockers: tuple[str, ...] = ()
    closed_ports: frozenset[str] = frozenset()
    """Paths of channels that no program in the guest has opened, where the VMM says so."""
    problems: tuple[str, ...] = ()
    description: VmDescription | None = None
    """The VM as the VMM itself describes it, where a command line does not tell."""


class Backend(Protocol):
    """One hypervisor. `recognise` is pure; `inspect` is bounded in time and bytes, never raises
    VmError for a VMM that hangs, refuses or lies, and puts that into `VmState.problems`."""

    name: str
    layout_taints: bool
    """Asking for the layout leaves a mark on the VM: only what needs each address asks."""

    def recognise(self, process: Process) -> VmDescription | None:
        """The VM that this process runs, or None where it runs none of this kind."""
        ...

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        """Ask the VMM. `layout` also asks where guest addresses lie, which costs more."""
        ...


def amount(value: object) -> int | None:
    """A guest's or VMM's number as bytes; None for what is none (-1, all ones, text, a lie)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < BYTES_LIMIT:
        return None
    return value


def key_of(vm: VmDescription) -> str:
    """Return what the VM is called in every surface: safe in a URL, a label and a log."""
    return f"{vm.backend}:{quote(vm.name[:_NAME_LIMIT], safe='', errors='replace')}:{vm.pid}"
