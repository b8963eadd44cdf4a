"""Fallbacks through a real libvirtd: a paused domain with a balloon and a virtio-mem device."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fallback_kill import MIB, Clock, state
from private_libvirtd import MISSING, Daemon, paused_domain, session_daemon

from giveback.accounting.usage import NO_GUEST
from giveback.errors import InputError
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.model import ActionKind
from giveback.manager.settings.load import VmSettings
from giveback.vmm.backends.libvirt import LibvirtBackend
from giveback.vmm.control import agent_port
from giveback.vmm.control.address import control_at, control_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.vmm.base import VmDescription

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start libvirtd as another user"),
]
libvirt = pytest.importorskip("libvirt", reason="libvirt-python is not installed")
libvirt_qemu = pytest.importorskip("libvirt_qemu")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with session_daemon() as started:
        yield started


NAME = "fallbacks"
XML = """\
<domain type='qemu'>
  <name>fallbacks</name>
  <maxMemory slots='4' unit='MiB'>4096</maxMemory>
  <memory unit='MiB'>1536</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <cpu mode='custom'><model>qemu64</model>
    <numa><cell id='0' cpus='0' memory='1024' unit='MiB'/></numa></cpu>
  <devices>
    <emulator>{emulator}</emulator>
    <memballoon model='virtio'/>
    <controller type='virtio-serial' index='0'/>
    <memory model='virtio-mem'>
      <target><size unit='MiB'>512</size><node>0</node><block unit='MiB'>2</block>
        <requested unit='MiB'>512</requested></target>
    </memory>
  </devices>
</domain>
"""


@pytest.fixture
def domain(daemon: Daemon) -> Iterator[VmDescription]:
    with paused_domain(daemon, XML, NAME) as vm:
        yield vm


def monitor(daemon: Daemon, command: str) -> str:
    connection = libvirt.open(daemon.uri)
    try:
        return str(libvirt_qemu.qemuMonitorCommand(connection.lookupByName(NAME), command, 0))
    finally:
        connection.close()


def requested(daemon: Daemon) -> int:
    said = json.loads(monitor(daemon, '{"execute": "query-memory-devices"}'))
    (device,) = said["return"]
    return int(device["data"]["requested-size"])


def test_virtio_mem_is_taken_by_steps_and_given_back(
    domain: VmDescription, daemon: Daemon, tmp_path: Path
) -> None:
    clock = Clock()
    manager = Fallbacks(tmp_path / "state", libvirt_uri=daemon.uri, clock=clock)
    settings = VmSettings(virtio_mem=True)

    async def look(available_mib: int) -> ActionKind | None:
        clock.now_s += 5
        now = state(clock.now_s, available_mib * MIB)
        action = await manager.step(domain, now, NO_GUEST, 1024 * MIB, settings)
        assert manager.problems == ()
        return action.kind if action else None

    async def go() -> None:
        assert [await look(800), await look(800)] == [None, ActionKind.VIRTIO_MEM]
        assert requested(daemon) == 448 * MIB
        (lease,) = manager.leases()
        assert lease.control == f"libvirt:{daemon.uri}#{NAME}"
        # A manager that was killed: the next one finds the domain by the lease alone.
        (action,) = await Fallbacks(tmp_path / "state").recover()
        assert action.kind is ActionKind.DEFLATE
        assert requested(daemon) == 512 * MIB

    asyncio.run(go())
    period = re.search(r"<stats period='(\d+)'/>", live_xml(daemon))
    assert period is not None
    assert period[1] == "5"


def live_xml(daemon: Daemon) -> str:
    connection = libvirt.open(daemon.uri)
    try:
        return str(connection.lookupByName(NAME).XMLDesc())
    finally:
        connection.close()


def test_the_balloon_is_told(domain: VmDescription, daemon: Daemon) -> None:
    control = control_of(domain, daemon.uri)
    devices = asyncio.run(control.devices())
    assert devices.balloon is not None
    assert devices.balloon.kept_bytes == devices.balloon.most_bytes == 1024 * MIB
    asyncio.run(control.set_balloon(960 * MIB))
    # No guest driver follows, and QEMU does not report the target: only that it accepted it is known.
    with pytest.raises(Exception, match="libvirt on"):
        asyncio.run(control.set_balloon(1 << 50))


def test_a_domain_that_is_not_there(domain: VmDescription, daemon: Daemon) -> None:
    control = control_at(f"libvirt:{daemon.uri}#no such", domain.pid)
    with pytest.raises(Exception, match="no such"):
        asyncio.run(control.devices())
    assert domain.pid


def test_the_agent_s_port_is_plugged_in_and_found(domain: VmDescription, daemon: Daemon) -> None:
    backend = LibvirtBackend(uri=daemon.uri)
    assert domain.channels == ()
    planned = asyncio.run(agent_port.plan(domain, uri=daemon.uri))
    assert "org.giveback.agent.0" in planned.steps[-1].text
    channel = asyncio.run(agent_port.carry_out(planned))
    assert Path(channel.path).is_socket()
    state = asyncio.run(backend.inspect(domain, timeout_s=10))
    assert state.description is not None
    assert state.description.channels == (channel,)
    with pytest.raises(InputError, match="already"):
        asyncio.run(agent_port.plan(domain, uri=daemon.uri))
