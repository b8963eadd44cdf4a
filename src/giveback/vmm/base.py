"""The description of a VM that every hypervisor backend gives, and the Protocol of a backend.

A backend states its abilities as data (`Capabilities`); it has no optional methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.host.procs import Process

MONITOR_SILENT = "may hold this monitor, or QEMU is stopped"
"""In the problem of a monitor that does not answer: so that fault is told from others."""
LABEL_LIMIT_CHARS = 64
"""The longest name of an owner, in settings and metadata."""
AGENT_PORT = "org.giveback.agent.0"
"""Name of the virtio-serial port of the guest's agent."""
GUEST_AGENT_PORT = "org.qemu.guest_agent.0"
PLUGGED_CHARDEV = "giveback-agent"
"""QEMU's chardev id of an agent's port that was plugged into a running VM."""
_NAME_LIMIT = 64
BYTES_LIMIT = 1 << 57
"""Upper bound of a plausible amount: no processor can address more."""


class Backing(StrEnum):
    """The kind of host memory behind a block of guest RAM."""

    ANONYMOUS = "anonymous"
    MEMFD = "memfd"
    FILE = "file"
    HUGETLB = "hugetlb"
    UNKNOWN = "unknown"


class Answer(StrEnum):
    """Answer to a question about a VM; UNKNOWN if the VMM does not tell."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, value: bool | None) -> Answer:
        """Convert True, False or None."""
        return cls.UNKNOWN if value is None else cls.YES if value else cls.NO


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A block of guest RAM as configured in the VMM. `path` is the file behind it, or ''."""

    name: str
    size_bytes: int
    backing: Backing = Backing.ANONYMOUS
    path: str = ""
    page_bytes: int = 4096
    prealloc: bool = False
    shared: bool = False
    hotplug: bool = False
    """Belongs to a virtio-mem device: only a part of it may be plugged."""
    grows: bool = False
    """The VMM may plug in more of it while the VM runs, at separate guest addresses."""


@dataclass(frozen=True, slots=True)
class GuestRange:
    """A range of guest addresses and its offset in a block; the hole below 4 GiB splits a block in two."""

    guest_start: int
    size_bytes: int
    block: str
    block_offset: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features that a VMM offers for this VM."""

    reports_pages: Answer = Answer.UNKNOWN
    """The VMM offers free page reporting; `VmState` says whether the guest accepted it."""
    balloon: Answer = Answer.UNKNOWN
    deflate_on_oom: bool = False
    statistics: Answer = Answer.UNKNOWN
    virtio_mem: Answer = Answer.UNKNOWN
    agent_channel: Answer = Answer.UNKNOWN


class ChannelKind(StrEnum):
    """The transport to the guest."""

    VIRTIO_SERIAL = "virtio-serial"
    VSOCK = "vsock"
    HYBRID_VSOCK = "hybrid-vsock"
    QEMU_GUEST_AGENT = "qemu-guest-agent"


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel into the guest: a unix socket's path, or a vsock CID.

    `pid` is the VM's process. Nothing is sent to `path` unless this process itself listens there.
    """

    kind: ChannelKind
    path: str = ""
    cid: int = 0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class VmDescription:
    """A running VM as its process's command line describes it, before its VMM was asked.

    `name` comes from a command line and may have any character: print it through `giveback_kernel.escaping`.
    `ram_bytes` is 0, and `ram_blocks` is empty, if the size of RAM is not known.
    """

    backend: str
    name: str
    pid: int
    ram_bytes: int
    ram_blocks: tuple[RamBlock, ...]
    capabilities: Capabilities = Capabilities()
    channels: tuple[Channel, ...] = ()
    control: str = ""
    """The address of the VMM's control socket; '' if there is none that giveback may use."""
    blockers: tuple[str, ...] = ()
    """Options on the command line that prevent the VMM from discarding reported pages."""
    machine: str = ""
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    """Parts of the configuration that could not be read: a feature not seen here is then unknown."""
    domain: str = ""
    """libvirt's name of the domain; '' if the VM is not libvirt's."""
    suffix: str = ""
    """The end that was added to `name` because the VM is another user's: `@uid1001`."""
    label: str = ""
    """The owner that libvirt's metadata names, for `giveback usage`; '' if none is named."""

    @property
    def block_bytes(self) -> int:
        """Size of all blocks, plugged or not."""
        return sum(block.size_bytes for block in self.ram_blocks)


@dataclass(frozen=True, slots=True)
class BalloonStatistics:
    """The guest's own numbers through the balloon device: bounded, but otherwise untrusted.

    `updated_s` is the wall-clock time of the guest's last answer; 0 if it never answered; None if the VMM
    does not tell. A stuck guest leaves the numbers unchanged; only `updated_s` shows it.
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
    """The VMM's answers. Fields stay empty if it did not answer; `problems` says why."""

    running: bool | None = None
    ram_bytes: int | None = None
    """Base memory and plugged memory at present."""
    balloon_bytes: int | None = None
    """Size of the balloon at present."""
    statistics: BalloonStatistics | None = None
    statistics_period_s: int | None = None
    """Interval at which the VMM asks the guest for statistics; 0 if polling is off, None if unknown."""
    reporting_negotiated: Answer = Answer.UNKNOWN
    driver_features: frozenset[str] = frozenset()
    layout: tuple[GuestRange, ...] = ()
    host_addresses: Mapping[str, int] = field(default_factory=dict)
    """Start of each block in the VMM's address space, if the VMM tells it."""
    blockers: tuple[str, ...] = ()
    closed_ports: frozenset[str] = frozenset()
    """Paths of channels that no program in the guest has opened, if the VMM tells it."""
    problems: tuple[str, ...] = ()
    description: VmDescription | None = None
    """The VMM's own description of the VM, if it corrects the one from the command line."""


class Backend(Protocol):
    """One hypervisor.

    `recognise` is pure. `inspect` is bounded in time and bytes. It never raises VmError for a VMM that
    hangs, refuses or lies, but records the failure in `VmState.problems`.
    """

    name: str
    layout_taints: bool
    """Whether a query of the layout marks the VM as tainted. Ask it then only if every address is needed."""

    def recognise(self, process: Process) -> VmDescription | None:
        """Return the VM that this process runs, or None if it is not a VMM of this kind."""
        ...

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        """Ask the VMM for its state. `layout` asks for guest addresses, too, which costs more."""
        ...


def amount(value: object) -> int | None:
    """Return a number from a guest or VMM as bytes; None if it is not plausible (-1, all ones, text)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < BYTES_LIMIT:
        return None
    return value


def key_of(vm: VmDescription) -> str:
    """Return the VM's key, which is safe in a URL, a metric's label and a log: `backend:name:pid`."""
    return f"{vm.backend}:{quote(vm.name[:_NAME_LIMIT], safe='', errors='replace')}:{vm.pid}"
