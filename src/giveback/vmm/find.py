"""Find the VMs that run on this host, with the backend of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.host.procs import processes
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.backends.libvirt import LibvirtBackend
from giveback.vmm.backends.qemu import QemuBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.vmm.base import Backend, VmDescription


def backends(root: str = "/") -> tuple[Backend, ...]:
    """Every backend that finds its VMs among the host's processes."""
    return (
        LibvirtBackend(root),
        QemuBackend(root),
        CloudHypervisorBackend(root),
        FirecrackerBackend(root),
    )


def find(root: str = "/") -> tuple[tuple[Backend, VmDescription], ...]:
    """Every VM on this host that a backend recognises, with that backend, in order of PID."""
    known = backends(root)
    found = []
    for process in processes(root):
        for backend in known:
            vm = backend.recognise(process)
            if vm is not None:
                found.append((backend, vm))
                break
    return tuple(found)


def choose(
    vms: Sequence[tuple[Backend, VmDescription]], wanted: str
) -> tuple[Backend, VmDescription]:
    """The VM of this name or PID. Raises InputError that lists what there is."""
    matching = [pair for pair in vms if wanted in (pair[1].name, str(pair[1].pid))]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(f"{vm.name!r} (pid {vm.pid})" for _, vm in vms[:20]) or "none"
    what = "no VM is" if not matching else "several VMs are"
    raise InputError(f"{what} called {wanted[:80]!r}; give a name or a PID of: {names}")
