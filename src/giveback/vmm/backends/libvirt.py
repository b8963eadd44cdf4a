"""The libvirt backend: libvirt holds the monitor of its domains' QEMU processes, so libvirt is asked.

Needs the extra `giveback[libvirt]`. libvirt's calls block, so they run in a worker thread. A libvirtd that
hangs costs its VM the timeout, and this process one thread. Source: libvirt.org/formatdomain.html
(memballoon), virDomainMemoryStats, virDomainQemuMonitorCommand.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from giveback.errors import InputError, VmError
from giveback.vmm import layout as layouts
from giveback.vmm.backends.libvirt_domain import Claim, claim
from giveback.vmm.backends.libvirt_session import SYSTEM_URI, session_uri
from giveback.vmm.backends.qemu import QemuBackend, parse_host_address, parse_layout, with_port
from giveback.vmm.base import (
    AGENT_PORT,
    LABEL_LIMIT_CHARS,
    Answer,
    Backing,
    BalloonStatistics,
    ChannelKind,
    GuestRange,
    RamBlock,
    VmDescription,
    VmState,
    amount,
)
from giveback.vmm.clients.xml import parse as parse_xml
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree import ElementTree as ET

    from giveback.host.procs import Process

URI = SYSTEM_URI
T = TypeVar("T")
_MONITOR = "id=charmonitor"
_TEXT_LIMIT_CHARS = 1 << 20
_KIB = 1024
_RANGES_LIMIT = 256
_CONFIGURATION_S = 30.0
_SESSION = "qemu:///session"
METADATA_URI = "urn:giveback"
"""The namespace of giveback's own element in a domain's metadata."""
_NOVAS_OWNER = ("nova:instance", "nova:owner", "nova:project")


def available() -> bool:
    """Tell whether libvirt-python is installed."""
    try:
        import libvirt  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


class LibvirtBackend:
    """The backend for QEMU processes that libvirt started; it asks libvirt about them."""

    name = "libvirt"
    layout_taints = True

    def __init__(self, root: str = "/", uri: str = "") -> None:
        self._root = root
        self._qemu = QemuBackend(root)
        self._uri = uri

    def recognise(self, process: Process) -> VmDescription | None:
        """Recognise a QEMU whose monitor libvirt holds. `control` is the URI of its session, or ''."""
        if not any(_MONITOR in word for word in process.argv):
            return None
        vm = self._qemu.recognise(process)
        # If there is another monitor, QMP is used instead. Old versions of libvirt show their own's path.
        if vm is None or (vm.control and not vm.control.endswith("/monitor.sock")):
            return None
        session = "" if self._uri else session_uri(self._root, process)
        return replace(vm, backend=self.name, control=session, domain=vm.name)

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        """Implement `Backend`."""
        if not available():
            return VmState(problems=("libvirt holds the monitor: pip install giveback[libvirt]",))
        # A monitor command marks the domain as tainted: use it only if the layout is not known otherwise.
        ask = layout and not layouts.assumed(vm)
        try:
            uri = self._uri or vm.control or URI
            return await with_domain(
                uri, domain_of(vm), vm.pid, lambda domain: _read(domain, vm, uri, layout=ask),
                write=ask, timeout_s=timeout_s,
            )  # fmt: skip
        except VmError as error:
            return VmState(problems=(str(error),))


async def in_thread(work: Callable[[], T], timeout_s: float, name: str) -> T:
    """Run blocking `work` in a daemon thread and return its result.

    Raises VmError of `work`, or if it takes more than `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except VmError as failure:
            problem = failure
            _settle(loop, done, lambda: done.set_exception(problem))
        else:
            _settle(loop, done, lambda: done.set_result(result))

    threading.Thread(target=run, daemon=True, name=f"libvirt {name[:40]}").start()
    try:
        return await asyncio.wait_for(done, timeout_s)
    except TimeoutError as error:
        raise VmError(
            f"libvirt did not answer about {escape_for_terminal(name)} in {timeout_s:g} s"
        ) from error


def _settle(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], act: Callable[[], None]
) -> None:
    def once() -> None:
        if not done.done():
            act()

    try:
        loop.call_soon_threadsafe(once)
    except RuntimeError:
        # The loop has ended: no task waits any more.
        return


def connect(uri: str, *, write: bool) -> Any:  # noqa: ANN401
    """Return a connection of libvirt-python, which the caller closes. Raises VmError."""
    import libvirt  # noqa: PLC0415

    libvirt.registerErrorHandler(lambda *_: None, None)  # the default prints to stderr
    try:
        return libvirt.open(uri) if write else libvirt.openReadOnly(uri)
    except libvirt.libvirtError as error:
        raise VmError(
            f"{uri}: {escape_for_terminal(str(error), 200)}; is libvirtd running, and do you have permission?"
        ) from error


async def with_domain(
    uri: str, name: str, pid: int | None, work: Callable[[Any], T], *, write: bool, timeout_s: float
) -> T:  # fmt: skip
    """Return the result of `work` on libvirt-python's domain of this name, which process `pid` must run.

    `pid` is None if the user named the domain. `timeout_s` limits libvirt's answers. Raises VmError with
    libvirt's message, if the process does not run the domain, or if libvirt does not answer in time.
    """
    claimed = await claim(uri, pid)
    return await in_thread(
        lambda: _with_domain(claimed, name, pid, work, write=write), timeout_s, name
    )


def _with_domain(
    claimed: Claim, name: str, pid: int | None, work: Callable[[Any], T], *, write: bool
) -> T:
    import libvirt  # noqa: PLC0415

    try:
        connection = connect(claimed.uri, write=write)
        try:
            domain = connection.lookupByName(name)
            if claimed.ids is not None and domain.ID() not in claimed.ids:
                raise VmError(
                    f"process {pid} claims to be libvirt's domain {escape_for_terminal(name)}, but does not "
                    "have its monitor"
                )
            return work(domain)
        except libvirt.libvirtError as error:
            raise VmError(
                f"libvirt on {escape_for_terminal(name)}: {escape_for_terminal(str(error), 300)}"
            ) from error
        finally:
            connection.close()
    finally:
        claimed.close()


def domain_of(vm: VmDescription) -> str:
    """Return libvirt's name of the VM."""
    return vm.domain or vm.name


def _read(domain: Any, vm: VmDescription, uri: str, *, layout: bool) -> VmState:  # noqa: ANN401
    import libvirt  # noqa: PLC0415

    ranges, addresses = _layout(domain) if layout else ((), {})
    stats = domain.memoryStats()
    running = domain.isActive() == 1 and domain.info()[0] == libvirt.VIR_DOMAIN_RUNNING
    xml = domain.XMLDesc()
    balloon = parse_memballoon(xml)
    port = parse_agent_port(xml)
    if port and all(channel.kind is not ChannelKind.VIRTIO_SERIAL for channel in vm.channels):
        vm = with_port(vm, port)
    vm = with_plugged_memory(vm, xml)
    if not uri.startswith(_SESSION):
        # Any user writes the metadata of a session's domains, and could have others pay for them.
        vm = replace(vm, label=parse_label(xml))
    state = state_from(vm, stats, running=running, balloon=balloon)
    closed = closed_ports(xml)
    return replace(state, layout=ranges, host_addresses=addresses, closed_ports=closed)


def _layout(domain: Any) -> tuple[tuple[GuestRange, ...], dict[str, int]]:  # noqa: ANN401
    """Return the layout and the blocks' addresses by QEMU's monitor through libvirt; empty if refused."""
    import libvirt  # noqa: PLC0415

    libvirt_qemu = importlib.import_module("libvirt_qemu")

    def human(line: str) -> str:
        flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        said = str(libvirt_qemu.qemuMonitorCommand(domain, line, flags))
        return said[:_TEXT_LIMIT_CHARS].replace("\r\n", "\n")

    addresses: dict[str, int] = {}
    try:
        ranges = parse_layout(human("info mtree -f"))
        for place in ranges[:_RANGES_LIMIT]:
            if place.block not in addresses:
                address = parse_host_address(human(f"gpa2hva {place.guest_start:#x}"))
                if address is not None:
                    addresses[place.block] = address - place.block_offset
    except libvirt.libvirtError:
        return (), {}
    return ranges, addresses


def state_from(
    vm: VmDescription, stats: dict[str, object], *, running: bool, balloon: Memballoon
) -> VmState:
    """Return the state from `virDomainMemoryStats`: KiB, -1 or absent if the guest sent no number. Pure."""
    actual = _kib(stats, "actual")
    # A domain may add options of its own (qemu:commandline), which only the command line shows.
    started = vm.capabilities
    capabilities = replace(
        started,
        reports_pages=Answer.of(balloon.reporting or started.reports_pages is Answer.YES),
        balloon=Answer.of(balloon.present or started.balloon is Answer.YES),
    )
    return VmState(
        running=running,
        ram_bytes=vm.ram_bytes,
        balloon_bytes=None if actual is None else max(0, vm.ram_bytes - actual),
        statistics=BalloonStatistics(
            updated_s=float(amount(stats.get("last_update")) or 0),
            total_bytes=_kib(stats, "available"),
            free_bytes=_kib(stats, "unused"),
            available_bytes=_kib(stats, "usable"),
            disk_caches_bytes=_kib(stats, "disk_caches"),
            swap_in_bytes=_kib(stats, "swap_in"),
            major_faults=amount(stats.get("major_fault")),
        )
        if balloon.present
        else None,
        statistics_period_s=balloon.period_s if balloon.present else None,
        description=replace(vm, capabilities=capabilities),
    )


def _kib(stats: dict[str, object], name: str) -> int | None:
    found = amount(stats.get(name))
    return None if found is None or found >= 1 << 47 else found * _KIB


@dataclass(frozen=True, slots=True)
class Memballoon:
    """The <memballoon> in a domain's XML."""

    present: bool
    reporting: bool
    period_s: int


def parse_memballoon(xml: str) -> Memballoon:
    """Parse <memballoon> in a domain's XML. Raises VmError if it is not XML, or too long."""
    element = parse_xml(xml).find("./devices/memballoon")
    if element is None or element.get("model") == "none":
        return Memballoon(present=False, reporting=False, period_s=0)
    stats = element.find("stats")
    period = "0" if stats is None else stats.get("period", "0")
    return Memballoon(
        present=True,
        reporting=element.get("freePageReporting") == "on",
        period_s=int(period) if period.isascii() and period.isdigit() and len(period) < 9 else 0,
    )


def parse_agent_port(xml: str) -> str:
    """Return the path of the agent's port, also if it was plugged in later; '' if none. Raises VmError."""
    for channel in parse_xml(xml).findall("./devices/channel[@type='unix']"):
        target, source = channel.find("./target"), channel.find("./source")
        if target is not None and source is not None and target.get("name") == AGENT_PORT:
            return source.get("path", "") if source.get("mode") == "bind" else ""
    return ""


def parse_label(xml: str) -> str:
    """Return the owner in a domain's <metadata>: <owner> of METADATA_URI, or Nova's project; '' if none.

    A text that a label may not have (longer than 64 characters, not printable) counts as none. Raises
    VmError. Source: `virsh metadata`; nova/virt/libvirt/config.py (LibvirtConfigGuestMetaNovaOwner).
    """
    for element in parse_xml(xml).findall("./metadata/*"):
        # A comment's tag is a function.
        prefix, colon, name = str(element.tag).rpartition(":")
        is_ours = name == "owner" and element.get(f"xmlns{colon}{prefix}") == METADATA_URI
        found = element if is_ours else _below(element, _NOVAS_OWNER)
        label = "" if found is None else (found.text or "").strip()
        if label and label.isprintable() and len(label) <= LABEL_LIMIT_CHARS:
            return label
    return ""


def _below(element: ET.Element, names: tuple[str, ...]) -> ET.Element | None:
    """Return the first descendant along these names, prefixes as written; the first name is its own."""
    found: ET.Element | None = element if element.tag == names[0] else None
    for name in names[1:]:
        found = None if found is None else next((one for one in found if one.tag == name), None)
    return found


def closed_ports(xml: str) -> frozenset[str]:
    """Return the sockets of channels that no program in the guest has opened. Raises VmError."""
    found = set()
    for channel in parse_xml(xml).findall("./devices/channel[@type='unix']"):
        target, source = channel.find("./target"), channel.find("./source")
        if target is not None and source is not None and target.get("state") == "disconnected":
            found.add(source.get("path", ""))
    return frozenset(found - {""})


def with_plugged_memory(vm: VmDescription, xml: str) -> VmDescription:
    """Add the memory in the XML that was plugged in after the VM's start. Raises VmError.

    The name of a device's QEMU backend is `mem` followed by the device's alias: qemuBuildMemoryDeviceStr()
    in libvirt's src/qemu/qemu_command.c.
    """
    names = {block.name for block in vm.ram_blocks}
    for element in parse_xml(xml).findall("./devices/memory"):
        alias, kind = element.find("./alias"), element.get("model")
        size_bytes = _xml_bytes(element, "./target/size")
        name = "" if alias is None else f"mem{alias.get('name', '')}"
        if kind in ("dimm", "virtio-mem") and name and size_bytes and name not in names:
            names.add(name)
            hotplug = kind == "virtio-mem"
            now_bytes = _xml_bytes(element, "./target/current") if hotplug else size_bytes
            block = RamBlock(name, size_bytes, backing=Backing.UNKNOWN, hotplug=hotplug)
            blocks = (*vm.ram_blocks, block)
            vm = replace(vm, ram_bytes=vm.ram_bytes + now_bytes, ram_blocks=blocks)
    return vm


def _xml_bytes(element: ET.Element, path: str) -> int:
    """Return a size in bytes, or 0. libvirt itself always writes KiB."""
    found = element.find(path)
    if found is None or found.text is None or found.get("unit", "KiB") != "KiB":
        return 0
    text = found.text.strip()
    return int(text) * _KIB if text.isascii() and text.isdigit() and len(text) < 15 else 0


def changed_xml(xml: str, *, reporting: bool | None = None, period_s: int | None = None) -> str:
    """Return a domain's XML with a changed <memballoon>; all else stays as it is.

    Raises InputError if the domain has no virtio memballoon, and VmError if the text is not XML.
    """
    from xml.etree import ElementTree as ET  # noqa: PLC0415

    root = parse_xml(xml)
    element = root.find("./devices/memballoon")
    if element is None or not (element.get("model") or "").startswith("virtio"):
        raise InputError("the domain has no <memballoon model='virtio'>: add one first")
    if reporting is not None:
        element.set("freePageReporting", "on" if reporting else "off")
    if period_s is not None:
        stats = element.find("stats")
        if stats is None:
            stats = ET.Element("stats")
            element.insert(0, stats)
        stats.set("period", str(period_s))
    return ET.tostring(root, encoding="unicode") + "\n"


def difference(before: str, after: str, name: str) -> str:
    """Return the change made by `changed_xml` as a unified diff, without differences of formatting."""
    import difflib  # noqa: PLC0415
    from xml.etree import ElementTree as ET  # noqa: PLC0415

    now, then = (
        ET.tostring(parse_xml(text), encoding="unicode").splitlines(keepends=True)
        for text in (before, after)
    )
    return "".join(difflib.unified_diff(now, then, f"{name} now", f"{name} then"))


def persistent_xml(name: str, pid: int | None, uri: str = URI) -> str:
    """Return the XML for the domain's next start. Raises VmError.

    For commands only: it runs an event loop.
    """
    import libvirt  # noqa: PLC0415

    def read(domain: Any) -> str:  # noqa: ANN401
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    work = with_domain(uri, name, pid, read, write=False, timeout_s=_CONFIGURATION_S)
    return asyncio.run(work)


def define(xml: str, uri: str = URI) -> None:
    """Set the XML for the domain's next start. Raises VmError."""
    import libvirt  # noqa: PLC0415

    connection = connect(uri, write=True)
    try:
        connection.defineXML(xml)
    except libvirt.libvirtError as error:
        raise VmError(
            f"libvirt refuses the new XML: {escape_for_terminal(str(error), 200)}"
        ) from error
    finally:
        connection.close()
