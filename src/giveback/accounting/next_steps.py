"""Next steps for the operator of a VM: command lines to paste, and options for its next start. Pure.

A VM's name is chosen by its user: it is quoted for a shell here, and escaped for a terminal by the printer.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from giveback.errors import by_its_own_names
from giveback.vmm.base import AGENT_PORT, Answer

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription

_OF_QEMU = ("qemu", "libvirt")


def install_agent(vm: VmDescription) -> tuple[str, ...]:
    """Return the command lines that install the agent; the user replaces GUEST by the guest's address."""
    lines = [
        "giveback zipapp     # on the host: writes giveback-agent.pyz",
        "scp giveback-agent.pyz root@GUEST:     # or any other way into the guest",
        "ssh root@GUEST python3 giveback-agent.pyz install",
    ]
    if vm.backend in _OF_QEMU and vm.capabilities.agent_channel is Answer.NO:
        lines.append(
            f"giveback enable {quoted(vm)} --agent-port --yes     # the host asks it through this port"
        )
    return tuple(lines)


def stopped(pid: int) -> str:
    """Return what is wrong with a VMM whose process was stopped by a signal, and what continues it."""
    return f"the VMM's process is stopped and does not answer: kill -CONT {pid} continues it"


def find_holder(vm: VmDescription) -> tuple[str, ...]:
    """Return the command lines that show why a monitor does not answer, and the option for a second one."""
    path = by_its_own_names(vm.control)
    return (
        f"ps -o pid,stat,wchan:20,comm -p {vm.pid}     # STAT T: stopped; D: it waits for a disk",
        f"ss -xpn | grep -F {shlex.quote(path)}     # ESTAB: a program is connected, and QEMU serves one",
        f"kill -CONT {vm.pid}     # if STAT is T",
        f"-qmp unix:{_stem(vm)}-qmp2.sock,server=on,wait=off     # at its next start: a monitor for giveback",
    )


def turn_statistics_on(vm: VmDescription) -> tuple[str, ...]:
    """Return the command line that turns on the VMM's polling of balloon statistics."""
    return (f"giveback enable {quoted(vm)} --statistics",)


def turn_reporting_on(vm: VmDescription) -> tuple[str, ...]:
    """Return the command line that shows how to turn reporting on, now or at the next start.

    () for a hypervisor that `giveback enable` cannot change.
    """
    known = vm.backend in _OF_QEMU
    return (f"giveback enable {quoted(vm)}     # shows what it would change",) if known else ()


def quoted(vm: VmDescription) -> str:
    """Return the VM's name quoted for a shell; its PID if the name cannot be an argument."""
    named = vm.name.isprintable() and not vm.name.startswith("-")
    return shlex.quote(vm.name) if named else str(vm.pid)


def start_options(vm: VmDescription) -> tuple[str, ...]:
    """Return the options that the VM's command line lacks, one per line.

    () if nothing is missing, or the hypervisor's options are unknown.
    """
    return {
        "qemu": _of_qemu,
        "cloud-hypervisor": _of_cloud_hypervisor,
        "firecracker": _of_firecracker,
    }.get(vm.backend, lambda _: ())(vm)


def _of_qemu(vm: VmDescription) -> tuple[str, ...]:
    has = vm.capabilities
    # A machine type without PCI attaches its devices by virtio-mmio.
    bus = "device" if vm.machine.startswith("microvm") else "pci"
    if vm.machine.startswith("s390"):
        bus = "ccw"
    found = []
    if has.balloon is Answer.NO:
        found.append(f"-device virtio-balloon-{bus},free-page-reporting=on")
    elif has.reports_pages is Answer.NO:
        found.append(f"-global virtio-balloon-{bus}.free-page-reporting=on")
    if has.agent_channel is Answer.NO:
        found += [
            f"-chardev socket,id=giveback,path={_stem(vm)}-agent.sock,server=on,wait=off",
            f"-device virtio-serial-{bus}",
            f"-device virtserialport,chardev=giveback,name={AGENT_PORT}",
        ]
    if not vm.control:
        found.append(f"-qmp unix:{_stem(vm)}-qmp.sock,server=on,wait=off")
    return tuple(found)


def _stem(vm: VmDescription) -> str:
    """Return where a VM's own sockets may be, without the end of the name."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in vm.name) or str(vm.pid)
    return f"/run/{name}"


def _of_cloud_hypervisor(vm: VmDescription) -> tuple[str, ...]:
    has = vm.capabilities
    found = []
    if Answer.NO in (has.balloon, has.reports_pages):
        found.append("--balloon size=0,free_page_reporting=on")
    if has.agent_channel is Answer.NO:
        found.append("--vsock cid=3,socket=/run/VM.vsock")
    if not vm.control:
        found.append("--api-socket /run/VM.sock")
    return tuple(found)


def _of_firecracker(vm: VmDescription) -> tuple[str, ...]:
    has = vm.capabilities
    found = []
    if Answer.NO in (has.balloon, has.reports_pages):
        found.append(
            'PUT /balloon {"amount_mib": 0, "deflate_on_oom": true, '
            '"stats_polling_interval_s": 5, "free_page_reporting": true}'
        )
    if has.agent_channel is Answer.NO:
        found.append('PUT /vsock {"guest_cid": 3, "uds_path": "/run/VM.vsock"}')
    return tuple(found)
