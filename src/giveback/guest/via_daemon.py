"""What a running daemon knows of a guest, for `ps` and its like: the daemon holds the agent's port.

QEMU serves one client of a port. A daemon that is connected answers for the guest at a socket of its
own, for the same user only; whoever finds no daemon there asks the guest itself.
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
"""The socket of the daemon that the command was told to ask; "": none was named."""
_TIMEOUT_S = 1.0
SILENT = "silent"
"""The key that is true where a daemon listens and has not answered: it may hold any port, and keeps it."""
_BY_CGROUP_TIMEOUT_S = 2.5
"""The agent may take a second to read them."""
_LINE_LIMIT_BYTES = 256 << 10
"""A line of the agent's, whose characters may each be escaped, and what the daemon adds."""
_PAGES_LIMIT_BYTES = PAGES_LIMIT_CHARS + _LINE_LIMIT_BYTES


def default_path(environ: Mapping[str, str] = os.environ) -> str:
    """Where the daemon of this user answers, unless its settings put its socket elsewhere."""
    if os.geteuid() == 0:
        return f"{SYSTEM_FOLDER}/{NAME}"
    folder = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"{folder}/giveback-daemon/{NAME}"


def places() -> tuple[str, ...]:
    """Where a daemon may answer: beside the socket that was named, and where every daemon is found."""
    named = API_SOCKET.get()
    beside = (f"{os.path.dirname(named) or '.'}/{NAME}",) if named else ()  # noqa: PTH120
    return tuple(dict.fromkeys((*beside, default_path(), f"{SYSTEM_FOLDER}/{NAME}")))


async def borrow(vm: VmDescription, *, by_cgroup: bool = False) -> dict[str, object] | None:
    """What a daemon knows of the guest; None where no daemon knows the VM.

    It is the agent's `memory` event with its `age_s` and `moved_bytes`, where there is one; and `held`:
    whether the agent's port is the daemon's. A daemon that listens and does not answer in time is taken to
    hold it (SILENT): who tried the port would take it away. `by_cgroup`: ask also which service and
    container has what.
    """
    more = b',"cgroups":true' if by_cgroup else b""
    timeout_s = _BY_CGROUP_TIMEOUT_S if by_cgroup else _TIMEOUT_S
    for place in places():
        said = await _ask(vm, place, more, timeout_s, _LINE_LIMIT_BYTES)
        if said is not None:
            return said
    return None


async def borrow_pages(vm: VmDescription, timeout_s: float) -> dict[str, object] | None:
    """What the guest says of its pages, by way of the daemon; None where no daemon knows the VM.

    It is the agent's `memory` event with all its `pages`; or `error`, and `again_s` where asking again helps.
    A daemon that asks for no pages answers as for `borrow`.
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
