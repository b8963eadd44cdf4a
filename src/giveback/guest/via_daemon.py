"""Ask a running daemon about a guest, for `ps` and similar commands.

QEMU serves one client of a port, and a running daemon is that client. It answers for the guest at a
socket of its own, for the same user only. If no daemon answers there, the command asks the guest itself.
"""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.guest.page_answer import PAGES_LIMIT_CHARS
from giveback.guest.protocol import parse_object
from giveback.vmm.clients.sockets import connect_unix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.vmm.base import VmDescription

NAME = "guests.sock"
SYSTEM_FOLDER = "/run/giveback-daemon"
API_SOCKET: ContextVar[str] = ContextVar("API_SOCKET", default="")
"""The daemon's API socket given on the command line; "" if none was given."""
_TIMEOUT_S = 1.0
SILENT = "silent"
"""The key that is true if a daemon listens but did not answer: it may hold the port."""
_BY_CGROUP_TIMEOUT_S = 2.5
"""The agent may take a second to read them."""
_LINE_LIMIT_BYTES = 256 << 10
"""A line of the agent, each of whose characters may be escaped, and the daemon's additions."""
_PAGES_LIMIT_BYTES = PAGES_LIMIT_CHARS + _LINE_LIMIT_BYTES


def default_path(environ: Mapping[str, str] = os.environ) -> str:
    """Return the path where this user's daemon answers, unless its settings place its socket elsewhere."""
    if os.geteuid() == 0:
        return f"{SYSTEM_FOLDER}/{NAME}"
    folder = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"{folder}/giveback-daemon/{NAME}"


def places() -> tuple[str, ...]:
    """Return the paths where a daemon may answer: beside the given API socket, then the usual places."""
    named = API_SOCKET.get()
    beside = (f"{os.path.dirname(named) or '.'}/{NAME}",) if named else ()  # noqa: PTH120
    return tuple(dict.fromkeys((*beside, default_path(), f"{SYSTEM_FOLDER}/{NAME}")))


async def ask_daemon(vm: VmDescription, *, by_cgroup: bool = False) -> dict[str, object] | None:
    """Return a daemon's last report of the guest; None if no daemon knows the VM.

    It is the agent's `memory` event with its `age_s` and `moved_bytes`, if there is one; and `held`:
    whether the daemon holds the agent's port. A daemon that listens but does not answer in time is
    assumed to hold the port (SILENT), because a connection from here would take the port away from it.
    `by_cgroup` asks also for memory by service and container.
    """
    more = b',"cgroups":true' if by_cgroup else b""
    timeout_s = _BY_CGROUP_TIMEOUT_S if by_cgroup else _TIMEOUT_S
    for place in places():
        said = await _ask(vm, place, more, timeout_s, _LINE_LIMIT_BYTES)
        if said is not None:
            return said
    return None


async def ask_daemon_for_pages(vm: VmDescription, timeout_s: float) -> dict[str, object] | None:
    """Return the guest's answer about its pages through the daemon; None if no daemon knows the VM.

    It is the agent's `memory` event with all its `pages`; or `error`, with `again_s` if asking again
    helps. A daemon that is too old to ask for pages answers as for `ask_daemon`.
    """
    for place in places():
        said = await _ask(vm, place, b',"pages":true', timeout_s, _PAGES_LIMIT_BYTES)
        if said is not None:
            return said
    return None


async def _ask(
    vm: VmDescription, where: str, more: bytes, timeout_s: float, limit_bytes: int
) -> dict[str, object] | None:
    if not os.access(where, os.R_OK | os.W_OK):
        return None
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                sock=connect_unix(where), limit=limit_bytes
            )
            writer.write(b'{"pid":%d%b}\n' % (vm.pid, more))
            said = parse_object(await reader.readuntil(b"\n"))
    except TimeoutError:
        return None if writer is None else {"name": vm.name, "held": True, SILENT: True}
    except (OSError, VmError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()
    return said if said.get("name") == vm.name else None
