"""HTTP over sockets connected by `owned.connect`: httpcore itself would open any path of a stranger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpcore2

from giveback.vmm.clients import owned

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable


class OwnedSockets(httpcore2.AsyncNetworkBackend):
    """A network backend that connects to the HTTP API of one process, whatever host the URL has."""

    def __init__(self, path: str, pid: int) -> None:
        self._path = path
        self._pid = pid

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[object] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Return a stream to the process's own socket. Raises VmError if it does not listen there."""
        del host, port, timeout, local_address, socket_options
        connection = await owned.connect(self._path, self._pid)
        try:
            return _Stream(*await asyncio.open_unix_connection(sock=connection))
        except BaseException:
            connection.close()
            raise


class _Stream(httpcore2.AsyncNetworkStream):
    """An asyncio stream with httpcore's interface. `timeout` is ignored: the caller has its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        del timeout
        return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        del timeout
        self._writer.write(buffer)
        await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        raise NotImplementedError("the APIs of VMMs do not use TLS")

    def get_extra_info(self, info: str) -> object:
        # "is_readable" asks whether the peer has closed an idle connection.
        return self._reader.at_eof() if info == "is_readable" else None
