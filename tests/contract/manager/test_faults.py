"""What goes wrong around the manager: guests, VMMs, other programs, the disk, the clock. In process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from manager_process import resident_bytes
from named_python import STAND_IN, program_named
from scripted_guests import MIB, Host, descriptors, until
from scripted_vmm import listening
from scripted_vms import Monitor

from giveback.guest import session
from giveback.host.memory import HostView
from giveback.manager import daemon
from giveback.manager.daemon import Daemon
from giveback.manager.decide import allocation, arbiter, promises, schedule
from giveback.manager.fleet import connections
from giveback.manager.fleet.discovery import Found
from giveback.manager.fleet.fleet import Fleet, Watched
from giveback.manager.model import VmCondition, VmStatus
from giveback.manager.settings.load import VmSettings
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Channel, ChannelKind, VmDescription


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own patience, made short."""
    monkeypatch.setattr(session, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(schedule, "GUEST_CALM_S", 0.5)
    monkeypatch.setattr(schedule, "HOST_CALM_S", 0.5)
    monkeypatch.setattr(daemon, "CONNECT_S", 0.2)
    monkeypatch.setattr(schedule, "RECONNECT_S", (0.1, 0.5))


@contextlib.asynccontextmanager
async def running(host: Host, more: str = "") -> AsyncIterator[Daemon]:
    manager = Daemon(host.settings(more), root=str(host.root))
    ready = asyncio.Event()
    task = asyncio.create_task(manager.run(ready.set))
    await ready.wait()
    try:
        yield manager
    finally:
        manager.stop()
        await task


def find(manager: Daemon, name: str) -> VmStatus | None:
    return next((vm for vm in manager.status().vms if vm.name == name), None)


def is_(manager: Daemon, name: str, condition: VmCondition) -> bool:
    found = find(manager, name)
    return found is not None and found.condition is condition


def is_newer(manager: Daemon, before: HostView | None) -> bool:
    return manager._arbitration.host is not before


def errors(manager: Daemon, name: str) -> dict[str, int]:
    found = find(manager, name)
    return dict(found.errors) if found else {}


@pytest.mark.usefixtures("hasty")
def test_hostile_guests_are_cut_off_and_harm_nobody(host: Host) -> None:
    kinds = {
        "flood": session.Ended.FLOOD,
        "long": session.Ended.LONG_LINE,
        "garbage": session.Ended.RUBBISH,
    }

    async def scene() -> None:
        with contextlib.ExitStack() as stack:
            for kind in ("good", *kinds):
                stack.enter_context(host.guest(kind, kind, ram_mib=16, held_mib=8))
            before = resident_bytes(os.getpid())
            async with running(host) as manager:
                await until(lambda: is_(manager, "good", VmCondition.OK))
                for kind, why in kinds.items():
                    await until(partial(is_, manager, kind, VmCondition.HOSTILE), kind)
                    assert errors(manager, kind)[str(why)] >= 1
                    assert all(
                        vm.channel.session is None for vm in manager.fleet if vm.name == kind
                    )
                assert is_(manager, "good", VmCondition.OK)
                after = resident_bytes(os.getpid())
                assert after - before < 64 * MIB
                assert not manager.status().problems

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_replays_and_false_names_change_nothing(host: Host) -> None:
    async def scene() -> None:
        with (
            host.guest("victim", cache_mib=8),
            host.guest("replay", "replay"),
            host.guest("impostor", "impostor", ram_mib=32, held_mib=16),
        ):
            async with running(host) as manager:
                await until(lambda: errors(manager, "replay").get("answer to no request", 0) > 4)
                await until(lambda: is_(manager, "impostor", VmCondition.OK))
                await until(lambda: is_(manager, "victim", VmCondition.OK))
                victim, impostor = find(manager, "victim"), find(manager, "impostor")
                assert victim is not None
                assert impostor is not None
                await until(lambda: (found := find(manager, "victim")) and found.rows)
                assert victim.ram_bytes == 64 * MIB
                assert impostor.ram_bytes == 32 * MIB
                replayed = next(vm for vm in manager.fleet if vm.name == "replay")
                assert replayed.guest.report.problems == ()

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_a_stopped_vmm_is_named_with_what_continues_it_and_comes_back(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web") as guest:
            async with running(host) as manager:
                await until(lambda: is_(manager, "web", VmCondition.OK))
                guest.freeze()
                await until(lambda: is_(manager, "web", VmCondition.STOPPED))
                web = find(manager, "web")
                assert web is not None
                assert f"kill -CONT {web.pid} continues it" in web.condition_text
                assert any(web.condition_text in line for line in manager.status().vm_problems)
                await until(lambda: errors(manager, "web").get("no answer from the agent", 0) >= 2)
                assert is_(manager, "web", VmCondition.STOPPED)
                guest.thaw()
                await until(lambda: is_(manager, "web", VmCondition.OK))

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_a_guest_that_never_answers_has_no_agent(host: Host) -> None:
    async def scene() -> None:
        with host.guest("none", has_agent=False), host.guest("gone", "leaves") as gone:
            async with running(host) as manager:
                await until(lambda: is_(manager, "none", VmCondition.NO_AGENT))
                await until(lambda: errors(manager, "gone").get("channel closed", 0) > 2)
                gone.process.kill()
                gone.process.wait()
                await until(lambda: find(manager, "gone") is None, "gone, and forgotten")

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_an_agent_that_starts_again_is_told_again(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", "restarts") as guest:
            async with running(host) as manager:
                await until(lambda: len(guest.heard) >= 2)
                assert [urgency for urgency, *_ in guest.heard[:2]] == [0, 0]
                assert guest.heard[1][2] - guest.heard[0][2] < 30
                await until(lambda: is_(manager, "web", VmCondition.OK))

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_a_port_that_another_holds_is_waited_for(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web") as guest, socket.socket(socket.AF_UNIX) as other:
            other.connect(str(guest.port))
            assert b"hello" in other.recv(4096)
            async with running(host) as manager:
                await until(lambda: is_(manager, "web", VmCondition.BUSY_CHANNEL))
                other.close()
                await until(lambda: is_(manager, "web", VmCondition.OK))

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_the_port_is_lent_to_who_waits_for_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "PORT_LEFT_S", 0.2)

    async def scene() -> None:
        with host.guest("web") as guest, socket.socket(socket.AF_UNIX) as other:
            async with running(host) as manager:
                await until(lambda: is_(manager, "web", VmCondition.OK))
                other.setblocking(False)
                other.connect(str(guest.port))
                loop = asyncio.get_running_loop()
                assert b"hello" in await asyncio.wait_for(loop.sock_recv(other, 4096), 30)
                await until(lambda: is_(manager, "web", VmCondition.BUSY_CHANNEL))
                assert errors(manager, "web")["channel lent to another"] == 1
                other.close()
                await until(lambda: is_(manager, "web", VmCondition.OK))

    asyncio.run(scene())


class Paused(Monitor):
    answers = Monitor.answers | {"query-status": {"running": False}}


class Held(Monitor):
    def handle(self) -> None:
        self.request.recv(1)


@pytest.mark.usefixtures("hasty")
def test_what_the_vmm_says_or_does_not_is_shown(host: Host, tmp_path: Path) -> None:
    paused, held = tmp_path / "paused.q", tmp_path / "held.q"

    async def scene() -> None:
        with (
            listening(paused, Paused),
            listening(held, Held),
            host.guest("paused", monitor=str(paused)),
            host.guest("held", monitor=str(held)),
        ):
            async with running(host) as manager:
                await until(lambda: is_(manager, "paused", VmCondition.PAUSED))
                await until(lambda: errors(manager, "held").get("the VMM does not answer"))
                await until(lambda: is_(manager, "held", VmCondition.OK))

    asyncio.run(scene())


@pytest.mark.usefixtures("hasty")
def test_a_guest_that_promises_and_does_not_deliver_is_shown_with_the_reason(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "GRACE_S", 1.0)
    monkeypatch.setattr(allocation, "GRACE_S", {1: 1.0, 2: 1.0, 3: 1.0})

    async def scene() -> None:
        with host.guest("web", "promises", ram_mib=256, held_mib=224, cache_mib=160):
            async with running(host) as manager:
                await until(lambda: (found := find(manager, "web")) and found.rows)
                host.set_available(host.total_bytes // 50)
                await until(lambda: is_(manager, "web", VmCondition.SHORT))
                seen = find(manager, "web")
                assert seen is not None
                assert seen.reliability is not None
                assert seen.reliability < 1
                action = next(a for a in manager.status().actions if a.measured_bytes is not None)
                assert action.verdict.startswith("0 KiB of ")

    asyncio.run(scene())


def test_a_clock_that_is_set_changes_no_decision(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arbiter, "_SAMPLE_CALM_S", (0.2, 0.5))

    async def scene() -> None:
        with host.guest("web") as guest:
            async with running(host) as manager:
                await until(lambda: is_(manager, "web", VmCondition.OK))
                await until(lambda: guest.heard)
                real = time.time
                for jump_s in (86_400.0, -86_400.0 * 400):
                    monkeypatch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
                    heard = len(guest.heard)
                    before = manager._arbitration.host
                    await until(partial(is_newer, manager, before))
                    await until(
                        lambda jump_s=jump_s: (  # type: ignore[misc]
                            abs(manager.status().wall_s - real() - jump_s) < 30
                        )
                    )
                    status = manager.status()
                    assert status.decision is not None
                    assert status.decision.urgency == 0
                    assert len(guest.heard) == heard
                    assert is_(manager, "web", VmCondition.OK)

    asyncio.run(scene())


def test_a_hundred_vms_a_second_come_and_go(host: Host) -> None:
    rounds = 4

    def start(number: int) -> subprocess.Popen[bytes]:
        words = ["-c", "read x", "-m", "64M", "-name", f"brief{number}"]
        path = host.folder / f"{number}.port"
        words += ["-chardev", f"socket,id=c,path={path},server=on,wait=off"]
        words += ["-device", "virtserialport,chardev=c,name=org.giveback.agent.0"]
        command = ["/opt/qemu-system-x86_64", *words]
        child = subprocess.Popen(
            command, executable=program_named(STAND_IN, "/bin/sh"), stdin=subprocess.PIPE
        )
        host.show(child.pid)
        return child

    async def scene() -> None:
        async with running(host) as manager:
            await until(lambda: manager.status().host)
            before = descriptors()
            for turn in range(rounds):
                children = [start(100 * turn + n) for n in range(100)]
                await until(lambda: len(manager.fleet.vms) == 100)
                for child in children:
                    assert child.stdin is not None
                    child.stdin.close()
                    child.wait()
                    host.hide(child.pid)
                await until(lambda: not manager.fleet.vms)
            # Lookups of a moment ago may still be ending.
            await until(lambda: descriptors() <= before + 2)
            assert not manager.fleet.pids
            assert not manager.fleet.errors.counts

    asyncio.run(scene())


def test_ten_thousand_connections_leave_nothing_behind(tmp_path: Path) -> None:
    cycles = 10_000
    path = tmp_path / "port"
    hello = json.dumps({"v": 1, "event": "hello", "agent": "0"}).encode() + b"\n"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)
        writer.close()

    async def scene() -> None:
        known = Fleet()
        port = Channel(ChannelKind.VIRTIO_SERIAL, str(path), pid=os.getpid())
        vm = VmDescription("qemu", "web", 1, MIB, (), channels=(port,))
        watched = Watched(Found("qemu:web:1", QemuBackend(), vm, 1, -1), VmSettings(), 0.0)
        known.add(watched)
        channel = watched.channel
        keeper = connections.Connections(known)
        server = await asyncio.start_unix_server(greet, path)
        me = os.getpid()

        async def cycle(count: int) -> None:
            for _ in range(count):
                channel.connect_at_s = 0.0
                keeper.step(time.monotonic())
                await until(
                    lambda: not channel.connecting and channel.session is None,
                    pause_s=0,
                )

        async with server:
            await cycle(500)
            gc.collect()
            files, held = descriptors(), resident_bytes(me)
            await cycle(cycles)
            gc.collect()
            assert descriptors() <= files + 2
            assert resident_bytes(me) - held < 8 * MIB
            assert watched.errors.counts["channel closed"] == cycles + 500
        await keeper.close()

    asyncio.run(scene())
