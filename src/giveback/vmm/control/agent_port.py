"""Plug the agent's port into a running VM: virtio-serial over QMP, or through libvirt.

A `PortPlan` lists the steps: it can be shown first, then carried out. The VM's command line does not show
a plugged port; QMP's `query-chardev` (by its label) and libvirt's XML do. The agent checks for a new port
every 10 s. Source: qapi/char.json, qapi/qdev.json, docs/pcie.txt of QEMU; libvirt.org/formatdomain.html
(channel).
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError, VmError
from giveback.host.procs import own_path
from giveback.vmm.backends.libvirt import URI, parse_agent_port
from giveback.vmm.backends.qemu_shape import plugged_socket
from giveback.vmm.base import AGENT_PORT, PLUGGED_CHARDEV, Channel, ChannelKind
from giveback.vmm.clients.xml import parse as parse_xml
from giveback.vmm.control.devices import TIMEOUT_S
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription
    from giveback.vmm.clients.qmp import Monitor

CONTROLLER = "giveback-serial"
SOCKET_NAME = "giveback-agent.sock"
# sockaddr_un.sun_path without its final NUL.
_SOCKET_PATH_BYTES = 107
_PARENTS = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached")
_CHANNEL_XML = (
    "<channel type='unix'><source mode='bind'/>"
    f"<target type='virtio' name='{AGENT_PORT}'/></channel>"
)


@dataclass(frozen=True, slots=True)
class PortStep:
    """One QMP command with its arguments, or with libvirt the XML of one device."""

    command: str
    arguments: dict[str, object]

    @property
    def text(self) -> str:
        """The step as the user sees it; the VM's own text in it is escaped."""
        said = self.arguments.get("xml")
        words = said if isinstance(said, str) else json.dumps(self.arguments)
        return escape_for_terminal(f"{self.command} {words}", 400)


@dataclass(frozen=True, slots=True)
class PortPlan:
    """The steps for a VM. `socket` is the port's path as the VMM sees it; '' if libvirt chooses it."""

    vm: VmDescription
    steps: tuple[PortStep, ...]
    socket: str
    uri: str = ""


async def plan(vm: VmDescription, *, uri: str = "", socket: str = "") -> PortPlan:
    """Plan how the port is plugged in.

    `socket` is the port's path for QEMU; by default it is beside the QMP socket. `uri` is libvirt's, if it
    differs from the one at which the domain was found.

    Raises InputError if the VM has the port already or cannot have it, and VmError if the VMM does not
    answer.
    """
    if any(channel.kind is ChannelKind.VIRTIO_SERIAL for channel in vm.channels):
        raise InputError(
            f"{escape_for_terminal(vm.name)}: the VM already has the port {AGENT_PORT}"
        )
    if vm.backend == "libvirt":
        return await _plan_libvirt(vm, uri or vm.control or URI)
    if vm.backend == "qemu" and vm.control:
        return await _plan_qemu(vm, socket)
    raise InputError(
        f"{escape_for_terminal(vm.name)}: "
        "a port can be plugged into VMs of QEMU with a QMP socket, and of libvirt"
    )


async def carry_out(planned: PortPlan) -> Channel:
    """Carry out the steps; undo the finished ones if a step fails. Raises VmError."""
    if planned.vm.backend == "libvirt":
        return await _carry_out_libvirt(planned)
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    done: list[PortStep] = []
    async with monitor(planned.vm.control, planned.vm.pid, 2 * TIMEOUT_S) as session:
        try:
            for step in planned.steps:
                await session.execute(step.command, **step.arguments)
                done.append(step)
        except VmError:
            await _undo(session, done)
            raise
    path = own_path("/", planned.vm.pid, planned.socket)
    return Channel(ChannelKind.VIRTIO_SERIAL, path=path, pid=planned.vm.pid)


async def _undo(session: Monitor, done: list[PortStep]) -> None:
    for step in reversed(done):
        name = str(step.arguments["id"])
        with contextlib.suppress(VmError):
            command = "chardev-remove" if step.command == "chardev-add" else "device_del"
            await session.execute(command, id=name)


async def _plan_qemu(vm: VmDescription, socket: str) -> PortPlan:
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    path = socket or _socket_beside(vm)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise InputError(f"{path}: too long for a socket's path; choose another by --port-socket")
    async with monitor(vm.control, vm.pid, TIMEOUT_S) as session:
        if plugged_socket(await session.ask("query-chardev")):
            raise InputError(
                f"{escape_for_terminal(vm.name)}: the port {AGENT_PORT} was plugged in already"
            )
        steps = [_chardev(path)]
        port: dict[str, object] = {
            "driver": "virtserialport",
            "id": PLUGGED_CHARDEV,
            "chardev": PLUGGED_CHARDEV,
            "name": AGENT_PORT,
        }
        if not await _has_controller(session):
            steps.append(await _controller(session, vm))
            port["bus"] = f"{CONTROLLER}.0"
        steps.append(PortStep("device_add", port))
    return PortPlan(vm, tuple(steps), path)


def _chardev(path: str) -> PortStep:
    address = {"type": "unix", "data": {"path": path}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    return PortStep("chardev-add", {"id": PLUGGED_CHARDEV, "backend": backend})


def _socket_beside(vm: VmDescription) -> str:
    """Return a path beside the QMP socket, as QEMU itself sees it: QEMU can surely create a socket there."""
    base = vm.control
    if "/" not in base:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: its monitor is at {base}, which has no folder: "
            "choose the port's path by --port-socket PATH"
        )
    base = base.removeprefix(f"/proc/{vm.pid}/root").removeprefix(f"/proc/{vm.pid}/cwd/")
    place = Path(base)
    return str(place.with_name(f"{place.stem}-{SOCKET_NAME}"))


async def _has_controller(session: Monitor) -> bool:
    for parent in _PARENTS:
        children = await session.ask("qom-list", path=parent)
        for child in children if isinstance(children, list) else ():
            kind = str(child.get("type")) if isinstance(child, dict) else ""
            if kind.startswith("child<virtio-serial"):
                return True
    return False


async def _controller(session: Monitor, vm: VmDescription) -> PortStep:
    """Return the step that plugs in a virtio-serial controller. Raises InputError if no bus accepts one."""
    place = await pci_place(session, vm, "virtio-serial-pci")
    return PortStep("device_add", {"driver": "virtio-serial-pci", "id": CONTROLLER, **place})


async def pci_place(session: Monitor, vm: VmDescription, driver: str) -> dict[str, object]:
    """Return `device_add`'s `bus` for a PCI device; {} if every bus accepts one.

    Raises InputError with the options that the VM's next start needs if no bus accepts one.
    """
    pci = await session.ask("query-pci")
    buses = pci if isinstance(pci, list) else []
    if not buses:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: "
            f"a {escape_for_terminal(vm.machine) or 'machine'} without PCI accepts no PCI device"
        )
    if not _is_express(vm):
        return {}
    free = free_root_port(buses)
    if not free:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: "
            "no free PCIe root port to plug a device into: its next start "
            f"needs `-device {driver}`, or `-device pcie-root-port,id=spare,chassis=9`"
        )
    return {"bus": free}


def _is_express(vm: VmDescription) -> bool:
    """Tell whether the root bus is PCI Express, which accepts no device at run time."""
    return "q35" in vm.machine or vm.machine.startswith("virt")


def free_root_port(buses: list[object]) -> str:
    """Return the id of a named bridge of `query-pci` without a device behind it; '' if there is none."""
    for bus in buses:
        devices = bus.get("devices") if isinstance(bus, dict) else None
        for device in devices if isinstance(devices, list) else ():
            if not isinstance(device, dict) or not isinstance(device.get("pci_bridge"), dict):
                continue
            name = device.get("qdev_id")
            if isinstance(name, str) and name and not device["pci_bridge"].get("devices"):
                return name
    return ""


async def _plan_libvirt(vm: VmDescription, uri: str) -> PortPlan:
    from giveback.vmm.control.libvirt import LibvirtControl  # noqa: PLC0415

    xml = await LibvirtControl(uri, vm.domain or vm.name, vm.pid).xml()
    if parse_agent_port(xml):
        raise InputError(
            f"{escape_for_terminal(vm.name)}: the port {AGENT_PORT} was plugged in already"
        )
    if parse_xml(xml).find("./devices/controller[@type='virtio-serial']") is None:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: "
            "libvirt plugs no virtio-serial controller into a running domain: its "
            "next start needs <controller type='virtio-serial'/>, or the channel itself"
        )
    return PortPlan(vm, (PortStep("attach-device", {"xml": _CHANNEL_XML}),), "", uri)


async def _carry_out_libvirt(planned: PortPlan) -> Channel:
    from giveback.vmm.control.libvirt import LibvirtControl  # noqa: PLC0415

    control = LibvirtControl(planned.uri, planned.vm.domain or planned.vm.name, planned.vm.pid)
    for step in planned.steps:
        await control.attach(str(step.arguments["xml"]))
    path = parse_agent_port(await control.xml())
    if not path:
        raise VmError(
            f"{escape_for_terminal(planned.vm.name)}: libvirt plugged in the port, but shows no socket for it"
        )
    return Channel(ChannelKind.VIRTIO_SERIAL, path=path, pid=planned.vm.pid)
