"""Keeps one session to each VM's agent, and lets others have the port when they wait for it.

QEMU serves one client of a virtio-serial port. A daemon that holds it for ever would lock out
`giveback explain`, a colleague with socat, libvirt's console: so when another client waits, the
daemon leaves for two seconds, and comes back when nobody is served there any more.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest.session import Session, connect
from giveback.manager.fleet import socket_queues
from giveback.vmm.base import ChannelKind

if TYPE_CHECKING:
    from giveback.manager.fleet.fleet import Fleet, Watched

_BUFFER_BYTES = 64 << 10
_AT_ONCE = 64
_LENT_S = 2.0
_QUEUED_PATIENCE_S = 3.0


class Connections:
    """All sessions of the daemon. `step` is to be called about every second."""

    def __init__(self, fleet: Fleet, root: str = "/") -> None:
        self._fleet = fleet
        self._root = root
        # One for all: a read is taken out of it before the loop can read for another session.
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._tasks: set[asyncio.Task[None]] = set()

    def step(self, now_s: float) -> None:
        """Connect what is to be connected, and lend what is waited for."""
        waiting = [vm for vm in self._fleet if self._is_to_connect(vm, now_s)]
        served = [vm for vm in self._fleet if vm.session is not None and _is_exclusive(vm)]
        if not served and not any(_is_exclusive(vm) for vm in waiting):
            table = socket_queues.Queues()
        else:
            table = socket_queues.read(self._root)
        for vm in self._fleet:
            if vm.settings.ignore and vm.session is not None:
                vm.session.close()
                vm.session = vm.told = None
                vm.changed()
        for vm in served:
            self._lend(vm, table, now_s)
        for vm in waiting:
            if len(self._tasks) >= _AT_ONCE:
                return
            if _is_exclusive(vm) and vm.channel and table.serves(vm.channel.path):
                vm.held_by_another = True
                vm.errors.add("channel held by another")
                vm.connect_at_s = now_s + _LENT_S
                vm.changed()
            else:
                self._start(vm)

    async def close(self) -> None:
        """Let go of every session."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for vm in self._fleet:
            if vm.session is not None:
                vm.session.close()
                vm.session = None

    def _is_to_connect(self, vm: Watched, now_s: float) -> bool:
        idle = vm.session is None and not vm.connecting and not vm.settings.ignore
        return idle and now_s >= vm.connect_at_s and vm.channel is not None

    def _lend(self, vm: Watched, table: socket_queues.Queues, now_s: float) -> None:
        session, channel = vm.session, vm.channel
        if session is None or channel is None or not table.has_waiting(channel.path):
            return
        # Whoever has heard nothing yet may be the one that waits: it stays in the queue for a while.
        heard = session.heard_at_s is not None
        if not heard and now_s - session.connected_at_s < _QUEUED_PATIENCE_S:
            vm.held_by_another = True
            vm.changed()
            return
        session.close()
        vm.session = None
        vm.told = None
        vm.held_by_another = True
        vm.errors.add("channel lent to another")
        vm.connect_at_s = now_s + _LENT_S
        vm.changed()

    def _start(self, vm: Watched) -> None:
        vm.connecting = True
        task = asyncio.get_running_loop().create_task(self._connect(vm))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, vm: Watched) -> None:
        channel = vm.channel
        try:
            if channel is None:
                return
            session = await connect(channel, vm, self._buffer)
        except VmError as error:
            vm.channel_problem = str(error)
            vm.errors.add("channel cannot be opened")
            now_s = asyncio.get_running_loop().time()
            vm.connect_at_s = now_s + vm.reconnect.wait_s(os.urandom(1)[0] / 256)
            vm.changed()
        else:
            self._take(vm, session)
        finally:
            vm.connecting = False

    def _take(self, vm: Watched, session: Session) -> None:
        if self._fleet.vms.get(vm.key) is not vm:
            session.close()
        elif session.is_connected:
            vm.session = session
            vm.channel_problem = ""
            vm.held_by_another = False
            vm.told = None
            vm.missed = 0
            vm.guest_due_s = 0.0
            vm.due_s = min(vm.due_s, session.connected_at_s)
            vm.changed()


def _is_exclusive(vm: Watched) -> bool:
    return vm.channel is not None and vm.channel.kind is ChannelKind.VIRTIO_SERIAL
