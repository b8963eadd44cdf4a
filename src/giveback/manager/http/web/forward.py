"""Forward a loopback port to the daemon's unix socket, because browsers cannot connect to unix sockets.

It passes bytes without parsing them: the daemon checks each browser's session in any case.
"""

from __future__ import annotations

import asyncio
import contextlib

from giveback.vmm.clients.sockets import short_path

CONNECTIONS = 128
_PIECE_BYTES = 64 << 10


class Forwarder:
    """Connects each client of `serve` with the daemon's socket."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._clients = 0

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Pass bytes both ways until one side ends; return at once if there are too many clients.

        The caller closes the client's connection (`each_closed`).
        """
        self._clients += 1
        try:
            if self._clients <= CONNECTIONS:
                await self._pass(client, back)
        except OSError:
            return  # The daemon or the browser has gone: the page shows that, and tries again.
        finally:
            self._clients -= 1

    async def _pass(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with short_path(self._path) as reachable:
            daemon, onward = await asyncio.open_unix_connection(reachable)
        ways = [
            asyncio.create_task(_copied(client, onward)),
            asyncio.create_task(_copied(daemon, back)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            onward.close()


async def _copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_PIECE_BYTES):
            target.write(data)
            await target.drain()
