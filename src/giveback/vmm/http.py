"""GET over a unix socket, bounded in time and bytes: for Cloud Hypervisor and Firecracker.

Firecracker serves few connections at once: one is opened per VM and closed after the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import httpx2

from giveback.errors import VmError
from giveback.vmm.sockets import reason, short_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_LIMIT_BYTES = 1 << 20


class Api:
    """An open connection to a VMM's HTTP API."""

    def __init__(self, client: httpx2.AsyncClient, path: str) -> None:
        self._client = client
        self._path = path

    async def get(self, resource: str) -> object:
        """The JSON of a 200 answer; None for any other status (no such device, not booted).

        Raises VmError for an answer that is longer than ANSWER_LIMIT_BYTES, or no JSON.
        """
        async with self._client.stream("GET", f"http://localhost{resource}") as response:
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > ANSWER_LIMIT_BYTES:
                    raise VmError(f"{self._path}: {resource} answers more than a MiB; not read on")
        if response.status_code != httpx2.codes.OK:
            return None
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise VmError(f"{self._path}: {resource} answers what is no JSON") from error


@contextlib.asynccontextmanager
async def api(path: str, timeout_s: float) -> AsyncIterator[Api]:
    """Talk to the API at a unix socket's path, for at most `timeout_s` in all. Raises VmError."""
    try:
        with short_path(path) as reachable:
            transport = httpx2.AsyncHTTPTransport(uds=reachable, retries=0)
            async with (
                asyncio.timeout(timeout_s),
                httpx2.AsyncClient(transport=transport, timeout=timeout_s) as client,
            ):
                yield Api(client, path)
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise VmError(f"{path}: no answer in {timeout_s:g} s; is the VMM stopped?") from error
    except httpx2.ConnectError as error:
        raise VmError(f"{path}: {_cause(error)}") from error
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise VmError(f"{path}: what answers is no HTTP: {str(error)[:200]}") from error
    except OSError as error:
        raise VmError(f"{path}: {reason(error)}") from error


def _cause(error: BaseException) -> str:
    """The reason of the system call behind a failed connection."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno is not None:
            return reason(behind)
        behind = behind.__cause__ or behind.__context__
    return str(error)[:200]
