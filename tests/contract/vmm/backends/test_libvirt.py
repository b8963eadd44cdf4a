"""The real libvirt: a separate unprivileged libvirtd with a paused TCG guest."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from private_libvirtd import MISSING, NOBODY, Daemon, libvirt, paused_domain, session_daemon
from strangers import MALLORY, open_folder, stranger

from giveback.cli import main
from giveback.errors import VmError
from giveback.host import smaps
from giveback.vmm import find
from giveback.vmm import layout as layouts
from giveback.vmm.backends.libvirt import METADATA_URI, LibvirtBackend, parse_label
from giveback.vmm.base import Answer, VmDescription
from giveback.vmm.control.address import control_of
from giveback.vmm.mapping import bind

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
XML = """\
<domain type='qemu'>
  <name>one &lt;é&gt;</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>{emulator}</emulator>
    <!-- kept as it is -->
    <memballoon model='virtio'/>
  </devices>
</domain>
"""
NAME = "one <é>"

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start libvirtd as another user"),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with session_daemon() as started:
        yield started


@pytest.fixture(scope="module")
def domain(daemon: Daemon) -> Iterator[VmDescription]:
    with paused_domain(daemon, XML, NAME) as vm:
        yield vm


def test_a_domain_is_found_and_its_ram_located(domain: VmDescription) -> None:
    assert (domain.backend, domain.ram_bytes, domain.block_bytes) == ("libvirt", 64 * MIB, 64 * MIB)
    assert domain.control == ""
    mappings = smaps.parse_smaps(smaps.read_smaps("/", domain.pid))
    (bound,) = bind(domain.ram_blocks, mappings)
    assert sum(end - start for start, end in bound.ranges) == 64 * MIB
    assert domain.pid in [vm.pid for _, vm in find.find() if vm.backend == "libvirt"]


def test_a_domain_of_a_session_is_asked_there(domain: VmDescription, daemon: Daemon) -> None:
    """The libvirtd's socket is not given: it is found by the owner of the process."""
    ((backend, found),) = [(b, vm) for b, vm in find.find() if vm.pid == domain.pid]
    assert found.control == daemon.uri
    state = asyncio.run(backend.inspect(found, timeout_s=10))
    assert state.problems == ()
    assert state.running is False
    devices = asyncio.run(control_of(found, "qemu:///system").devices())
    assert devices.balloon is not None


def test_a_domain_is_asked(domain: VmDescription, daemon: Daemon) -> None:
    state = asyncio.run(LibvirtBackend(uri=daemon.uri).inspect(domain, timeout_s=10))
    assert state.problems == ()
    assert state.running is False
    assert state.balloon_bytes == 0
    assert state.statistics is not None
    assert state.statistics.updated_s == 0
    assert state.description is not None
    assert state.description.capabilities.balloon is Answer.YES
    assert state.description.capabilities.reports_pages is Answer.NO


def test_the_owner_is_where_virsh_metadata_puts_it(domain: VmDescription, daemon: Daemon) -> None:
    connection = libvirt.open(daemon.uri)
    try:
        found = connection.lookupByName(domain.name)
        kind, flags = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
        found.setMetadata(kind, "<owner>team-a</owner>", "giveback", METADATA_URI, flags)
        assert parse_label(found.XMLDesc()) == "team-a"
    finally:
        connection.close()
    # A session's own users write its metadata.
    state = asyncio.run(LibvirtBackend(uri=daemon.uri).inspect(domain, timeout_s=10))
    assert state.description is not None
    assert state.description.label == ""


def test_the_assumed_layout_is_qemus_own(domain: VmDescription, daemon: Daemon) -> None:
    assumed = layouts.assumed(domain)
    (mtree,) = assumed
    assert (mtree.guest_start, mtree.size_bytes) == (0, 64 * MIB)
    # For an unknown machine type QEMU is asked through libvirt.
    strange = replace(domain, machine="strange")
    state = asyncio.run(LibvirtBackend(uri=daemon.uri).inspect(strange, layout=True, timeout_s=10))
    assert state.problems == ()
    # QEMU hides some RAM below 1 MiB until the firmware has run.
    told = {(place.guest_start, place.block_offset) for place in state.layout}
    assert all(start == offset for start, offset in told)
    assert max(p.guest_start + p.size_bytes for p in state.layout) == 64 * MIB
    (address,) = state.host_addresses.values()
    mappings = smaps.parse_smaps(smaps.read_smaps("/", domain.pid))
    (bound,) = bind(domain.ram_blocks, mappings)
    assert bound.ranges[0][0] == address


def test_reporting_is_turned_on_and_off_again(
    domain: VmDescription, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["enable", domain.name, "--connect", daemon.uri]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "+" in shown
    assert 'freePageReporting="on"' in shown
    assert "nothing was changed" in shown
    assert main([*words, "--yes"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "so already" in capsys.readouterr().out
    connection = libvirt.open(daemon.uri)
    xml = connection.lookupByName(domain.name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.close()
    assert "freePageReporting='on'" in xml
    assert "<stats period='5'/>" in xml
    assert main([*words, "--off", "--period", "0", "--yes"]) == 0


def test_a_domain_that_does_not_exist(
    domain: VmDescription, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enable", "no such", "--connect", daemon.uri]) == 2
    assert "no such" in capsys.readouterr().err
    assert domain.pid


def test_a_stranger_that_names_a_domain_is_not_taken_for_it(
    domain: VmDescription, daemon: Daemon
) -> None:
    """Nor is a stranger that names another user's socket as that of its own libvirtd."""
    with open_folder() as folder:
        words = ["/opt/qemu-kvm", "-m", "64M", "-name", f"guest={domain.name}"]
        words += ["-chardev", "socket,id=charmonitor,fd=3,server=on,wait=off"]
        words += ["-mon", "chardev=charmonitor,id=monitor,mode=control"]
        place = f"{folder}/libvirt/qemu/lib/domain-1-one"
        with stranger(folder / "log", words, uid=MALLORY) as fake:
            claimed = replace(domain, pid=fake.pid)
            state = asyncio.run(LibvirtBackend(uri=daemon.uri).inspect(claimed, timeout_s=10))
            assert "not a socket of the user" in state.problems[0]
        for folder_of in (
            f"{folder}/libvirt",
            f"{folder}/libvirt/qemu",
            f"{folder}/libvirt/qemu/lib",
            place,
        ):
            os.mkdir(folder_of)  # noqa: PTH102
            os.chown(folder_of, 0, 0)
            os.chmod(folder_of, 0o777)  # noqa: PTH101, S103  # as a stranger may have it
        # The domain's own user has a socket of the monitor's name, but its folder is not that of a libvirt.
        monitor = f"{place}/monitor.sock"
        with stranger(folder / "log", words, uid=NOBODY, listen=(monitor,)) as fake:
            claimed = replace(domain, pid=fake.pid)
            state = asyncio.run(LibvirtBackend(uri=daemon.uri).inspect(claimed, timeout_s=10))
            assert "does not have its monitor" in state.problems[0]
            control = control_of(claimed, daemon.uri)
            with pytest.raises(VmError, match="claims to be libvirt's domain"):
                asyncio.run(control.set_balloon(32 * MIB))


def test_the_error_says_that_libvirtd_is_missing(domain: VmDescription, tmp_path: Path) -> None:
    backend = LibvirtBackend(uri=f"qemu:///session?socket={tmp_path}/none")
    state = asyncio.run(backend.inspect(domain, timeout_s=10))
    assert "is libvirtd running" in state.problems[0]
