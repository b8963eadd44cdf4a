"""The socket at which `giveback ps` borrows what guests said: one daemon's at a time."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from giveback.accounting.usage import NO_GUEST
from giveback.errors import InputError
from giveback.manager.fleet.discovery import Found
from giveback.manager.fleet.fleet import Fleet, Watched
from giveback.manager.fleet.guest_proxy import _answer, proxying
from giveback.manager.settings.load import VmSettings
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import VmDescription, key_of

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_dead_daemon_left_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "guests.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def scene() -> None:
        async with proxying(Fleet(), path):
            with pytest.raises(InputError, match="choose a socket in another folder"):
                async with proxying(Fleet(), path):
                    pass
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"pid": 1}\n')
            assert await reader.readline() == b"null\n"
            writer.close()

    asyncio.run(scene())
    assert not path.exists()


def test_a_silent_agents_line_is_as_old_as_it_is_and_its_port_is_the_daemons() -> None:
    vm = VmDescription("qemu", "web", os.getpid(), 1 << 30, ())
    found = Found(key_of(vm), QemuBackend(), vm, 1, -1)

    async def scene() -> list[dict[str, object]]:
        fleet, now_s = Fleet(), asyncio.get_running_loop().time()
        watched = Watched(found, VmSettings(), now_s)
        fleet.add(watched)
        said = [json.loads(await _answer(fleet, vm.pid, by_cgroup=False))]
        watched.guest.take_line(b'{"event":"memory","meminfo":""}', now_s - 500.0)
        # Balloon statistics are newer: they say nothing of the agent's line.
        watched.guest.take_report(NO_GUEST, now_s)
        said.append(json.loads(await _answer(fleet, vm.pid, by_cgroup=False)))
        watched.channel.begin_connecting()
        said.append(json.loads(await _answer(fleet, vm.pid, by_cgroup=False)))
        return said

    known, old, held = asyncio.run(scene())
    assert known == {"name": "web", "held": False}
    assert isinstance(old["age_s"], float)
    assert 500 <= old["age_s"] < 510
    assert (old["moved_bytes"], old["held"], held["held"]) == (None, False, True)
