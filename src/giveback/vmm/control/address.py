"""What takes memory from a guest and gives it back: the balloon and virtio-mem, of any VMM.

`Control.address` is text that leads to the same VM again after a restart: leases are kept by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription
    from giveback.vmm.control.devices import Control


def control_of(vm: VmDescription, libvirt_uri: str) -> Control:
    """The control of a VM that runs; `libvirt_uri` is for domains of no session. Raises InputError."""
    if vm.backend == "libvirt":
        return control_at(f"libvirt:{vm.control or libvirt_uri}#{vm.domain or vm.name}", vm.pid)
    if not vm.control:
        raise InputError(f"{escape_for_terminal(vm.name)}: no control socket that we may use")
    return control_at(f"{vm.backend}:{vm.control}", vm.pid)


def control_at(address: str, pid: int) -> Control:
    """The control at an address of the VM whose process is `pid`. Raises InputError for what is none."""
    # Each brings its own slow imports: only what this host has is paid for.
    kind, _, place = address.partition(":")
    if kind == "qemu" and place:
        from giveback.vmm.control.qemu import QemuControl  # noqa: PLC0415

        return QemuControl(place, pid)
    if kind == "libvirt" and "#" in place:
        from giveback.vmm.control.libvirt import LibvirtControl  # noqa: PLC0415

        uri, _, name = place.partition("#")
        return LibvirtControl(uri, name, pid)
    if kind == "cloud-hypervisor" and place:
        from giveback.vmm.control.http import CloudHypervisorControl  # noqa: PLC0415

        return CloudHypervisorControl(place, pid)
    if kind == "firecracker" and place:
        from giveback.vmm.control.http import FirecrackerControl  # noqa: PLC0415

        return FirecrackerControl(place, pid)
    raise InputError(f"{escape_for_terminal(address)}: no address of a VM's control")
