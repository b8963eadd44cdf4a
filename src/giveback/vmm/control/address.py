"""What takes memory from a guest and gives it back: the balloon and virtio-mem, of any VMM.

`Control.address` is text that leads to the same VM again after a restart: leases are kept by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from giveback.errors import InputError
from giveback.text import shown

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription

TIMEOUT_S = 2.0
"""For all that is asked or told at once."""
STATISTICS_PERIOD_S = 5


@dataclass(frozen=True, slots=True)
class Balloon:
    """`kept_bytes` is what the guest has beside the balloon, `most_bytes` all that it could have."""

    kept_bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class VirtioMem:
    """A virtio-mem device: a guest is to plug `requested_bytes` of it and has plugged so much."""

    id: str
    requested_bytes: int
    plugged_bytes: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Devices:
    """What a VM has. `statistics_period_s` is 0 where the guest is asked for none, None unknown."""

    balloon: Balloon | None = None
    virtio_mem: tuple[VirtioMem, ...] = ()
    statistics_period_s: int | None = None


class Control(Protocol):
    """One VM's devices. Every method raises VmError, and takes TIMEOUT_S at most."""

    @property
    def address(self) -> str:
        """What `control_at` takes."""
        ...

    async def devices(self) -> Devices: ...

    async def set_balloon(self, kept_bytes: int) -> None:
        """The guest is to keep so much; its driver gets there by and by, or never."""
        ...

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """The guest is to plug so much, a multiple of the device's block."""
        ...

    async def set_statistics_period(self, period_s: int) -> None:
        """How often the guest is asked for its numbers; 0: never."""
        ...


def control_of(vm: VmDescription, libvirt_uri: str) -> Control:
    """The control of a VM that runs. Raises InputError for one that has none."""
    if vm.backend == "libvirt":
        return control_at(f"libvirt:{libvirt_uri}#{vm.name}")
    if not vm.control:
        raise InputError(f"{shown(vm.name)}: no control socket that we may use")
    return control_at(f"{vm.backend}:{vm.control}")


def control_at(address: str) -> Control:
    """The control at an address. Raises InputError for what is none."""
    # Each brings its own slow imports: only what this host has is paid for.
    kind, _, place = address.partition(":")
    if kind == "qemu" and place:
        from giveback.vmm.control.qemu import QemuControl  # noqa: PLC0415

        return QemuControl(place)
    if kind == "libvirt" and "#" in place:
        from giveback.vmm.control.libvirt import LibvirtControl  # noqa: PLC0415

        uri, _, name = place.partition("#")
        return LibvirtControl(uri, name)
    if kind == "cloud-hypervisor" and place:
        from giveback.vmm.control.http import CloudHypervisorControl  # noqa: PLC0415

        return CloudHypervisorControl(place)
    if kind == "firecracker" and place:
        from giveback.vmm.control.http import FirecrackerControl  # noqa: PLC0415

        return FirecrackerControl(place)
    raise InputError(f"{shown(address)}: no address of a VM's control")
