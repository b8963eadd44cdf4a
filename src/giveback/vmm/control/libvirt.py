"""Control the balloon and virtio-mem of a libvirt domain, through libvirt, which holds the monitor.

Source: virDomainSetMemoryFlags, virDomainSetMemoryStatsPeriod, virDomainUpdateDeviceFlags, and
libvirt.org/formatdomain.html (memory devices, model virtio-mem).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from giveback.errors import VmError
from giveback.vmm.backends.libvirt import available, parse_memballoon, with_domain
from giveback.vmm.base import amount
from giveback.vmm.clients.xml import parse as parse_xml
from giveback.vmm.control.devices import TIMEOUT_S, BalloonSize, Devices, VirtioMem
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import parse_qemu_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree import ElementTree as ET

_KIB = 1024
T = TypeVar("T")


class LibvirtControl:
    """The control of a domain, by its connection's URI and its name; the process `pid` must run it."""

    def __init__(self, uri: str, name: str, pid: int) -> None:
        self._uri = uri
        self._name = name
        self._pid = pid

    @property
    def address(self) -> str:
        """Implement `Control`."""
        return f"libvirt:{self._uri}#{self._name}"

    async def devices(self) -> Devices:
        """Implement `Control`."""
        return await self._do(_devices, write=False)

    async def set_balloon(self, kept_bytes: int) -> None:
        """Implement `Control`."""
        await self._do(lambda domain: domain.setMemoryFlags(kept_bytes // _KIB, _live()))

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """Implement `Control`; `device_id` is the device's alias."""

        def change(domain: Any) -> None:  # noqa: ANN401
            xml = requested_xml(domain.XMLDesc(), device_id, requested_bytes)
            domain.updateDeviceFlags(xml, _live())

        await self._do(change)

    async def set_statistics_period(self, period_s: int) -> None:
        """Implement `Control`."""
        await self._do(lambda domain: domain.setMemoryStatsPeriod(period_s, _live()))

    async def attach(self, xml: str) -> None:
        """Plug a device into the running domain, and into its next start if the domain is persistent."""
        import libvirt  # noqa: PLC0415

        def work(domain: Any) -> None:  # noqa: ANN401
            kept = int(libvirt.VIR_DOMAIN_AFFECT_CONFIG) if domain.isPersistent() else 0
            domain.attachDeviceFlags(xml, _live() | kept)

        await self._do(work)

    async def xml(self) -> str:
        """Return the running domain's XML."""
        return await self._do(lambda domain: str(domain.XMLDesc()), write=False)

    async def _do(self, work: Callable[[Any], T], *, write: bool = True) -> T:
        if not available():
            raise VmError("libvirt holds the monitor: pip install giveback[libvirt]")
        return await with_domain(
            self._uri, self._name, self._pid, work, write=write, timeout_s=TIMEOUT_S
        )


def _live() -> int:
    import libvirt  # noqa: PLC0415

    return int(libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _devices(domain: Any) -> Devices:  # noqa: ANN401
    xml = domain.XMLDesc()
    balloon = parse_memballoon(xml)
    kept = amount(domain.memoryStats().get("actual"))
    most = amount(domain.maxMemory())
    virtio_mem = parse_virtio_mem(xml)
    # libvirt counts virtio-mem as the domain's memory; the balloon does not.
    beside = sum(_size(entry, "./target/size") for entry in _elements(parse_xml(xml)))
    found = None
    if balloon.present and kept is not None and most is not None:
        found = BalloonSize(kept * _KIB, max(0, most * _KIB - beside))
    return Devices(found, virtio_mem, balloon.period_s)


def parse_virtio_mem(xml: str) -> tuple[VirtioMem, ...]:
    """Return the virtio-mem devices in a running domain's XML; their ids are the aliases."""
    return tuple(
        VirtioMem(
            id=_alias(element),
            requested_bytes=_size(element, "./target/requested"),
            plugged_bytes=_size(element, "./target/current"),
            block_bytes=_size(element, "./target/block"),
        )
        for element in _elements(parse_xml(xml))
        if _alias(element) and _size(element, "./target/block")
    )


def requested_xml(xml: str, alias: str, requested_bytes: int) -> str:
    """Return the device's own XML with a new <requested>. Raises VmError if there is no such device."""
    from xml.etree import ElementTree as ET  # noqa: PLC0415

    for element in _elements(parse_xml(xml)):
        requested = element.find("./target/requested")
        if _alias(element) == alias and requested is not None:
            requested.set("unit", "KiB")
            requested.text = str(requested_bytes // _KIB)
            return ET.tostring(element, encoding="unicode")
    raise VmError(f"the domain has no virtio-mem device {escape_for_terminal(alias)} any more")


def _elements(root: ET.Element) -> list[ET.Element]:
    found = root.findall("./devices/memory")
    return [element for element in found if element.get("model") == "virtio-mem"]


def _alias(element: ET.Element) -> str:
    alias = element.find("./alias")
    return "" if alias is None else alias.get("name", "")


def _size(element: ET.Element, path: str) -> int:
    found = element.find(path)
    if found is None or found.text is None:
        return 0
    # libvirt writes sizes in KiB, whatever unit they were given in.
    return parse_qemu_size(found.text + found.get("unit", "KiB").removesuffix("iB")) or 0
