"""Plug the agent's port into a VM that runs: virtio-serial over QMP, or through libvirt.

What will be done is a `PortPlan` first: it can be shown, then carried out. Afterwards the VM's command
line does not show the port: QMP's `query-chardev` does, by its label, and libvirt's XML. The agent
looks for a late port every ten seconds. Source: qapi/char.json, qapi/qdev.json, docs/pcie.txt of QEMU;
libvirt.org/formatdomain.html (channel).
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
# sockaddr_un.sun_path with its end.
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
        """For the user: the VM's own text in it is escaped."""
        said = self.arguments.get("xml")
        words = said if isinstance(said, str) else json.dumps(self.arguments)
        return escape_for_terminal(f"{self.command} {words}", 400)


@dataclass(frozen=True, slots=True)
class PortPlan:
    """What will be done to a VM. `socket` is the path as its VMM sees it; '' where libvirt chooses."""

    vm: VmDescription
    steps: tuple[PortStep, ...]
    socket: str
    uri: str = ""


async def plan(vm: VmDescription, *, uri: str = "", socket: str = "") -> PortPlan:
    """How the port would be plugged in; `socket` is where, for QEMU (else beside its QMP socket).

    `uri` is libvirt's, where it is not the one that the domain was found at.

    Raises InputError where it is there already or cannot be, VmError where the VMM does not answer.
    """
    if any(channel.kind is ChannelKind.VIRTIO_SERIAL for channel in vm.channels):
        raise InputError(f"{escape_for_terminal(vm.name)}: the port {AGENT_PORT} is there already")
    if vm.backend == "libvirt":
        return await _plan_libvirt(vm, uri or vm.control or URI)
    if vm.backend == "qemu" and vm.control:
        return await _plan_qemu(vm, socket)
    raise InputError(
        f"{escape_for_terminal(vm.name)}: "
        "a port can be plugged into VMs of QEMU with a QMP socket, and of libvirt"
    )


async def carry_out(planned: PortPlan) -> Channel:
    """Do it, and undo what was done where a step fails. Raises VmError."""
    if planned.vm.backend == "libvirt":
        return await _carry_out_libvirt(planned)
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    done: list[PortStep] = []
    async with monitor(planned.vm.control, planned.vm.pid, 2 * TIMEOUT_S) as session:
        try:
            for step in planned.steps:
                await session.tell(step.command, **step.arguments)
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
            await session.tell(command, id=name)


async def _plan_qemu(vm: VmDescription, socket: str) -> PortPlan:
    from giveback.vmm.clients.qmp import monitor  # noqa: PLC0415

    path = socket or _socket_beside(vm)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise InputError(f"{path}: longer than a socket's path may be: --port-socket gives another")
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
    """Where QEMU can surely make a socket, by the path that it sees itself: beside its QMP socket."""
    base = vm.control
    if "/" not in base:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: its monitor is at {base}: "
            "say --port-socket PATH for the port"
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
    """A virtio-serial controller where one can be plugged in. Raises InputError."""
    place = await pci_place(session, vm, "virtio-serial-pci")
    return PortStep("device_add", {"driver": "virtio-serial-pci", "id": CONTROLLER, **place})


async def pci_place(session: Monitor, vm: VmDescription, driver: str) -> dict[str, object]:
    """Where a PCI device can be plugged in: `device_add`'s `bus`, {} where any will do.

    Raises InputError that says what its next start needs.
    """
    pci = await session.ask("query-pci")
    buses = pci if isinstance(pci, list) else []
    if not buses:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: "
            f"a {escape_for_terminal(vm.machine) or 'machine'} without PCI takes none"
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
    """Whether the root bus itself takes nothing at run time, as that of PCI Express."""
    return "q35" in vm.machine or vm.machine.startswith("virt")


def free_root_port(buses: list[object]) -> str:
    """The id of a bridge of `query-pci` with a name and nothing behind it; ''."""
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
            f"{escape_for_terminal(planned.vm.name)}: libvirt plugged the port in and shows no socket of it"
        )
    return Channel(ChannelKind.VIRTIO_SERIAL, path=path, pid=planned.vm.pid)
