"""Find the VMs that run on this host, with the backend of each.

Any user may control a command line and the files that it names: reader processes read them.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.errors import InputError, VmError
from giveback.host.owners import read_uid
from giveback.host.procs import pids, read_process
from giveback.host.readers import plain, pool
from giveback.host.readers.pool import SHORT, Item
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.backends.libvirt import LibvirtBackend
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import VmDescription, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback.host.readers.pool import Readers
    from giveback.vmm.base import Backend

_USERS = 1000
"""Smaller uids belong to the host itself. Source: systemd, docs/UIDS-GIDS.md, as for _SERVICES."""
_SERVICES = range(61184, 65520)
"""Uids of services, among them Debian's libvirt-qemu (64055) and systemd's dynamic users."""


def backends(root: str = "/") -> tuple[Backend, ...]:
    """Return the backends that find their VMs among the host's processes, in the order of their trial."""
    return (
        LibvirtBackend(root),
        QemuBackend(root),
        CloudHypervisorBackend(root),
        FirecrackerBackend(root),
    )


def recognise(
    root: str, pid: int, among: Sequence[Backend]
) -> tuple[Backend, VmDescription] | None:
    """Return the VM that a process runs, with the first backend that recognises it, or None."""
    process = read_process(root, pid)
    if process is None or not process.argv:
        return None
    for backend in among:
        vm = backend.recognise(process)
        if vm is not None:
            return backend, name_by_owner(vm, read_uid(root, pid), os.geteuid())
    return None


def name_by_owner(vm: VmDescription, uid: int | None, our_uid: int) -> VmDescription:
    """Return the VM with a name that no other user's VM can have. Pure.

    VMs of our own user and of the host's services keep their names. Another user's VM gets the suffix
    `@uidN`, so that it cannot claim the settings or the place of a VM of the same name.
    """
    if uid is None or uid == our_uid or uid < _USERS or uid in _SERVICES:
        return vm
    suffix = f"@uid{uid}"
    return replace(vm, name=vm.name + suffix, suffix=suffix)


def read_vm(root: str, pid: int) -> tuple[str, VmDescription] | None:
    """Return the name of the backend and the VM that a process runs, or None. Runs in a reader process."""
    found = recognise(root, pid, backends(root))
    return None if found is None else (found[0].name, found[1])


async def recognised(
    readers: Readers, wanted: Iterable[int], root: str = "/"
) -> list[tuple[Backend, VmDescription] | VmError | None]:
    """Return for each PID its VM with the backend, None if it is not a VM, or the error of reading it."""
    items = [Item(pid, (root, pid)) for pid in wanted]
    known = {backend.name: backend for backend in backends(root)}
    found: list[tuple[Backend, VmDescription] | VmError | None] = []
    for answer in await readers.each(read_vm, items, SHORT):
        if answer is None or isinstance(answer, VmError):
            found.append(answer)
            continue
        try:
            name, vm = plain.unpack(tuple[str, VmDescription], answer)
        except ValueError as error:
            found.append(VmError(f"its reader sent a malformed description of the VM: {error}"))
        else:
            found.append((known[name], vm) if name in known else None)
    return found


def find(
    root: str = "/", skipped: list[VmError] | None = None
) -> tuple[tuple[Backend, VmDescription], ...]:
    """Return every VM on this host with the backend that recognises it, ordered by PID.

    Add to `skipped` why a process could not be read, which may run a VM. For commands only: it runs an event
    loop. Raises VmError if /proc cannot be listed or read.
    """
    found = asyncio.run(recognised(pool.shared(), pids(root), root))
    if skipped is not None:
        skipped += [one for one in found if isinstance(one, VmError)]
    return tuple(one for one in found if isinstance(one, tuple))


def choose(
    vms: Sequence[tuple[Backend, VmDescription]], wanted: str
) -> tuple[Backend, VmDescription]:
    """Return the VM of this name, key or PID; "" means the only VM.

    Raises InputError with a list of the VMs if not exactly one matches.
    """
    matching = [pair for pair in vms if is_called(pair[1], wanted) or not wanted]
    matching = matching or [pair for pair in vms if is_given(pair[1], wanted)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(f"{vm.name!r} (pid {vm.pid})" for _, vm in vms[:20]) or "none"
    what = f"{'several VMs are' if matching else 'no VM is'} called {wanted[:80]!r}"
    if not wanted:
        what = "several VMs run on this host" if matching else "no VM runs on this host"
    raise InputError(f"{what}; give a name, a key or a PID of: {names}")


def is_given(vm: VmDescription, wanted: str) -> bool:
    """Tell whether `wanted` is the name that the VM's own user gave it, without our suffix."""
    return wanted == vm.name.removesuffix(vm.suffix)


def is_called(vm: VmDescription, wanted: str) -> bool:
    """Tell whether `wanted` is the VM's name, its key or its VMM's PID."""
    return wanted in (vm.name, str(vm.pid), key_of(vm))
