"""The socket at which `giveback ps` borrows what guests said: one daemon's at a time."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from giveback.errors import InputError
from giveback.manager.fleet.fleet import Fleet
from giveback.manager.fleet.guest_proxy import proxying

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_dead_daemon_left_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "guests.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def scene() -> None:
        async with proxying(Fleet(), path):
            with pytest.raises(InputError, match="name a socket in another folder"):
                async with proxying(Fleet(), path):
                    pass
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"pid": 1}\n')
            assert await reader.readline() == b"null\n"
            writer.close()

    asyncio.run(scene())
    assert not path.exists()
