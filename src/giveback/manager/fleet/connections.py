"""Keep one session to each VM's agent, and leave the port to other clients that wait for it.

QEMU serves one client of a virtio-serial port at a time. A daemon that never left it would lock out
`giveback explain`, a user's socat and libvirt's console. So when another client waits, the daemon
leaves for two seconds. It connects again once the port serves no client.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest.rate_limits import Pace
from giveback.guest.session import Session, connect
from giveback.host.budgets import Budget
from giveback.host.sockets import unix_sockets
from giveback.manager.decide import schedule
from giveback.vmm.base import ChannelKind
from giveback.vmm.clients import owned

if TYPE_CHECKING:
    from collections.abc import Hashable

    from giveback.manager.fleet.fleet import Fleet, Watched

_BUFFER_BYTES = 64 << 10
_AT_ONCE = 64
_LINES_A_SECOND, _BYTES_A_SECOND = 2000.0, 8 << 20
"""Limits of all guests of one owner together. A thousand guests under pressure send about 200 reports and
1000 steps a second."""
_PACES_LIMIT = 4096


class Connections:
    """All sessions of the daemon. Call `step` about once a second."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        # One buffer serves all sessions: each read is copied out before the loop reads for another.
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._tasks: set[asyncio.Task[None]] = set()
        self._paces: dict[Hashable, Pace] = {}
        self._opening = Budget(_AT_ONCE, _AT_ONCE // 2)

    def step(self, now_s: float) -> None:
        """Open the sessions that are due, and leave ports that another client waits for."""
        taken = {_cid_of(vm) for vm in self._fleet if not vm.vmm.description.suffix} - {None}
        waiting = [
            vm
            for vm in self._fleet
            if _is_to_connect(vm, now_s)
            # If several VMs claim one CID, it belongs to a VM of root or a service, not to another user's.
            and not (vm.vmm.description.suffix and _cid_of(vm) in taken)
        ]
        served = [vm for vm in self._fleet if vm.channel.session is not None and _is_exclusive(vm)]
        if not served and not any(_is_exclusive(vm) for vm in waiting):
            table = unix_sockets.Queues()
        else:
            table = unix_sockets.read()
        for vm in self._fleet:
            if vm.settings.ignore and vm.channel.session is not None:
                vm.channel.drop()
        for vm in served:
            _leave_if_waited_for(vm, table, now_s)
        for vm in schedule.in_turn(waiting, [vm.owner for vm in waiting]):
            if self._opening.take(vm.owner):
                self._start(vm, table)

    async def close(self) -> None:
        """Close every session."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for vm in self._fleet:
            vm.channel.close()

    def _start(self, vm: Watched, table: unix_sockets.Queues) -> None:
        vm.channel.begin_connecting()
        task = asyncio.get_running_loop().create_task(self._connect(vm, table))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, vm: Watched, table: unix_sockets.Queues) -> None:
        place = vm.vmm.agent_channel
        try:
            if place is None:
                return
            if _is_exclusive(vm):
                vm.channel.place(await owned.file_of(place.path, place.pid))
                if table.serves(vm.channel.file):
                    vm.channel.wait_for_another(asyncio.get_running_loop().time())
                    return
            session = await connect(place, vm.channel, self._buffer, self._pace_of(vm.owner))
        except VmError as error:
            vm.channel.fail(str(error), asyncio.get_running_loop().time())
        else:
            self._take(vm, session)
        finally:
            self._opening.give(vm.owner)
            vm.channel.end_connecting()

    def _pace_of(self, owner: Hashable) -> Pace:
        """Return the limit of what all guests of this owner together may send per second."""
        if len(self._paces) > _PACES_LIMIT:
            self._paces.clear()
        return self._paces.setdefault(owner, Pace(_LINES_A_SECOND, _BYTES_A_SECOND))

    def _take(self, vm: Watched, session: Session) -> None:
        if self._fleet.vms.get(vm.key) is not vm:
            session.close()
        elif session.is_connected:
            vm.guest.connect()
            vm.host.hurry(session.connected_at_s)
            vm.channel.take(session)


def _cid_of(vm: Watched) -> int | None:
    """Return the vsock CID that the VM's command line claims; None if it claims none."""
    place = vm.vmm.agent_channel
    return place.cid if place is not None and place.kind is ChannelKind.VSOCK else None


def _is_to_connect(vm: Watched, now_s: float) -> bool:
    channel = vm.channel
    idle = channel.session is None and not channel.connecting and not vm.settings.ignore
    return idle and now_s >= channel.connect_at_s and vm.vmm.agent_channel is not None


def _leave_if_waited_for(vm: Watched, table: unix_sockets.Queues, now_s: float) -> None:
    session, place = vm.channel.session, vm.vmm.agent_channel
    if session is None or place is None or not table.has_waiting(vm.channel.file):
        return
    has_heard = session.heard_at_s is not None
    if schedule.stays_queued(
        has_heard=has_heard, connected_at_s=session.connected_at_s, now_s=now_s
    ):
        vm.channel.wait_in_queue()
    else:
        vm.channel.leave_to_another(now_s)


def _is_exclusive(vm: Watched) -> bool:
    place = vm.vmm.agent_channel
    return place is not None and place.kind is ChannelKind.VIRTIO_SERIAL
