"""HTTP over a unix socket, bounded in time and bytes, for Cloud Hypervisor and Firecracker.

Firecracker serves few connections at once: a session opens one connection and closes it at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.host.budgets import Budget, owner_of
from giveback.host.owners import read_uid
from giveback.host.procs import TOO_LONG, own_path
from giveback.vmm.base import VmState
from giveback.vmm.clients import bounded_json
from giveback.vmm.clients.sockets import reason
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpcore2

    from giveback.host.budgets import Account
    from giveback.host.procs import Process
    from giveback.vmm.base import VmDescription

ANSWER_LIMIT_BYTES = 1 << 20
_SESSION_BYTES = 24 << 20
"""Limit of the memory for the answers of one session and the objects parsed from them."""
_MEMORY = Budget(in_all=128 << 20, each=64 << 20)
"""The same for all open sessions, and for all sessions with the VMMs of one user."""
_OK = 200
_REFUSED = 400


class VmmApi:
    """An open session with a VMM's HTTP API."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool, path: str, account: Account) -> None:
        self._pool = pool
        self._path = path
        self._account = account

    async def get(self, resource: str) -> object:
        """Return the JSON of a 200 answer; None for any other status (no such device, not booted).

        Raises VmError if the answer is longer than ANSWER_LIMIT_BYTES, needs too much memory, or is not
        JSON.
        """
        status, body = await self._exchange("GET", resource)
        if status != _OK:
            return None
        self._pay(bounded_json.cost_bytes(body), resource)
        try:
            return bounded_json.parse(body, ANSWER_LIMIT_BYTES)
        except ValueError as error:
            raise VmError(f"{self._path}: the answer to {resource} is {error}") from error

    async def send(self, method: str, resource: str, body: dict[str, object]) -> None:
        """Send a request that changes something. Raises VmError with the VMM's message if it refuses."""
        status, answer = await self._exchange(method, resource, body)
        if status >= _REFUSED:
            words = escape_for_terminal(answer[:300].decode("utf-8", "replace"))
            raise VmError(f"{self._path}: {method} {resource} is refused ({status}): {words}")

    async def _exchange(
        self, method: str, resource: str, body: dict[str, object] | None = None
    ) -> tuple[int, bytes]:
        url = f"http://localhost{resource}"
        content = None if body is None else json.dumps(body).encode()
        headers: dict[bytes | str, bytes | str] = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        answer = bytearray()
        async with self._pool.stream(method, url, headers=headers, content=content) as response:
            async for chunk in response.aiter_stream():
                answer += chunk
                if len(answer) > ANSWER_LIMIT_BYTES:
                    raise VmError(
                        f"{self._path}: the answer to {resource} is longer than "
                        f"{ANSWER_LIMIT_BYTES >> 20} MiB; not read"
                    )
        return response.status, bytes(answer)

    def _pay(self, amount_bytes: int, resource: str) -> None:
        if self._account.taken + amount_bytes > _SESSION_BYTES or not self._account.take(
            amount_bytes
        ):
            raise VmError(f"{self._path}: the answer to {resource} needs too much memory")


@contextlib.asynccontextmanager
async def api(path: str, pid: int, timeout_s: float) -> AsyncIterator[VmmApi]:
    """Open a session with the API at a unix socket's path, for at most `timeout_s` in all.

    The process `pid` itself must listen there. Raises VmError if it does not answer.
    """
    # Slow to import: `giveback --help` does not need it.
    import httpcore2  # noqa: PLC0415

    from giveback.vmm.clients.http_connection import OwnedSockets  # noqa: PLC0415

    pool = httpcore2.AsyncConnectionPool(max_connections=1, network_backend=OwnedSockets(path, pid))
    try:
        async with asyncio.timeout(timeout_s), pool:
            with _MEMORY.account(owner_of(read_uid("/", pid))) as account:
                yield VmmApi(pool, path, account)
    except TimeoutError as error:
        raise VmError(f"{path}: no answer in {timeout_s:g} s; is the VMM stopped?") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise VmError(f"{path}: not an HTTP answer: {str(error)[:200]}") from error
    except OSError as error:
        raise VmError(f"{path}: {reason(error)}") from error


_GENERIC = frozenset(
    {
        "", ".", "..", "api", "ch", "ch-api", "clh", "clh-api", "cloud-hypervisor", "control", "fc",
        "firecracker", "http", "kata", "lib", "local", "root", "run", "sandbox", "sock", "socket",
        "sockets", "tmp", "user", "var", "vc", "vm", "vmm", "vms",
    }
)  # fmt: skip
"""Usual names of sockets and folders, which do not distinguish VMs."""


def name_of_socket(path: str) -> str:
    """Return the last part of an API socket's path that distinguishes VMs; '' if there is none.

    For /run/vc/vm/ID/clh-api.sock it is ID.
    """
    place = re.sub(r"^/run/user/\d+/", "/", path)
    stems = [part.removesuffix(".sock").removesuffix(".socket") for part in place.split("/")]
    return next((stem for stem in reversed(stems) if stem not in _GENERIC), "")


class HttpBackend:
    """The common part of backends whose VMs are processes with an HTTP API each."""

    name: str
    layout_taints = False
    without_socket: str
    """The option that starts a VM without an API, as shown to the user."""

    def __init__(self, root: str = "/") -> None:
        self._root = root

    @staticmethod
    def _vmm_of(process: Process) -> str:
        """Return the name of the VMM that the process runs, or ''."""
        raise NotImplementedError

    def recognise(self, process: Process) -> VmDescription | None:
        """Implement `Backend`."""
        if self._vmm_of(process) != self.name:
            return None
        vm = self._describe(process, partial(own_path, self._root, process.pid))
        return replace(vm, unread=(TOO_LONG, *vm.unread)) if process.cut else vm

    async def inspect(
        self, vm: VmDescription, *, layout: bool = False, timeout_s: float = 2.0
    ) -> VmState:
        """Implement `Backend`."""
        del layout
        if not vm.control:
            why = f"the VM was started {self.without_socket}: it has no API to ask"
            return VmState(problems=(why, *vm.unread))
        try:
            async with api(vm.control, vm.pid, timeout_s) as session:
                return await self._ask(session, vm, partial(own_path, self._root, vm.pid))
        except VmError as error:
            return VmState(problems=(str(error), *vm.unread))

    def _describe(self, process: Process, host_path: Callable[[str], str]) -> VmDescription:
        """Describe the VM by its command line; `host_path` converts the process's paths to the host's."""
        raise NotImplementedError

    async def _ask(
        self, session: VmmApi, vm: VmDescription, host_path: Callable[[str], str]
    ) -> VmState:
        raise NotImplementedError
