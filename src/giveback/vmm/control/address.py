"""Make the `Control` of a VM's balloon and virtio-mem, by the VM or by an address.

`Control.address` is text that finds the same VM again after a restart of the daemon: leases are stored
by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription
    from giveback.vmm.control.devices import Control


def control_of(vm: VmDescription, libvirt_uri: str) -> Control:
    """Return the control of a running VM; `libvirt_uri` is used for domains that are not of a session.

    Raises InputError if the VM has no control socket that giveback may use.
    """
    if vm.backend == "libvirt":
        return control_at(f"libvirt:{vm.control or libvirt_uri}#{vm.domain or vm.name}", vm.pid)
    if not vm.control:
        raise InputError(f"{escape_for_terminal(vm.name)}: no control socket that giveback may use")
    return control_at(f"{vm.backend}:{vm.control}", vm.pid)


def control_at(address: str, pid: int) -> Control:
    """Return the control at an address, of the VM whose process is `pid`.

    Raises InputError if the address has no known form.
    """
    # Each module has slow imports of its own: a host pays only for the VMMs that it has.
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
    raise InputError(f"{escape_for_terminal(address)}: not the address of a VM's control socket")
