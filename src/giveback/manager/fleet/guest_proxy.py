"""Serve reports of guests whose port the daemon holds; `giveback.guest.via_daemon` is the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING

from giveback.errors import InputError, file_error
from giveback.guest.protocol import parse_object
from giveback.vmm.clients.sockets import each_closed, remove_stale, short_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path
    from typing import Any

    from giveback.manager.fleet.fleet import Fleet, Watched

_FRESH_S = 1.0
_PATIENCE_S = 0.3
_BY_CGROUP_PATIENCE_S = 1.8
_ASK_LIMIT_BYTES = 256
_CLIENT_S = 2.0
_CLIENTS = 64
_PAGES_AT_ONCE = 2
"""An answer may take 16 MiB, twice while it is written."""
_BUSY_S = 0.5


@contextlib.asynccontextmanager
async def proxying(fleet: Fleet, path: Path) -> AsyncIterator[None]:
    """Serve at `path` while the block runs, for root and the daemon's own user (mode 0600).

    Raises InputError if the socket cannot be created.
    """
    clients, few = asyncio.Semaphore(_CLIENTS), asyncio.Semaphore(_PAGES_AT_ONCE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with clients:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                async with asyncio.timeout(_CLIENT_S):
                    asked = parse_object(await reader.readline())
                if asked.get("pages") is True:
                    answer = await _unless_gone(pages_of(asked.get("pid")), reader)
                else:
                    by_cgroup = asked.get("cgroups") is True
                    answer = await _answer(fleet, asked.get("pid"), by_cgroup)
                async with asyncio.timeout(_CLIENT_S):
                    writer.write(answer + b"\n")
                    await writer.drain()

    async def pages_of(pid: object) -> bytes:
        async with few:
            return await _pages(fleet, pid)

    listener = _listener(path)
    try:
        async with await asyncio.start_unix_server(
            each_closed(serve), sock=listener, limit=_ASK_LIMIT_BYTES
        ):
            yield
    finally:
        listener.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # a folder in memory


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with short_path(str(path)) as reachable:
            # The daemon's lock protects the state folder only: two daemons may share this one by mistake.
            remove_stale(reachable)
            listener.bind(reachable)
        path.chmod(0o600)
    except InputError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise file_error(str(path), error, "daemon.socket names its folder") from error
    return listener


async def _answer(fleet: Fleet, pid: object, by_cgroup: bool) -> bytes:
    """Return the agent's last report as JSON, a new one if it comes in time; `null` for an unknown VM.

    `held`: the daemon has the port, so that the client need not try it. `moved_bytes`: the change of
    resident memory since the report, without sign; null if no sample is that old.
    """
    vm = _found(fleet, pid)
    if vm is None:
        return b"null"
    await _freshen(vm, by_cgroup)
    now_s = asyncio.get_running_loop().time()
    guest, channel = vm.guest, vm.channel
    is_held = not vm.settings.ignore and (channel.session is not None or channel.connecting)
    known = {"name": vm.name, "held": is_held}
    if not guest.line:
        return json.dumps(known).encode()
    age_s, moved_bytes = now_s - guest.line_at_s, vm.host.moved_since(guest.line_at_s)
    said = parse_object(guest.line)
    return json.dumps({**said, **known, "age_s": age_s, "moved_bytes": moved_bytes}).encode()


async def _unless_gone(answer: Coroutine[Any, Any, bytes], reader: asyncio.StreamReader) -> bytes:
    """Await an answer that may take long. Raises ConnectionError once the client has gone."""
    made, gone = asyncio.ensure_future(answer), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((made, gone), return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            raise ConnectionResetError
        return made.result()
    finally:
        for one in (made, gone):
            one.cancel()


async def _pages(fleet: Fleet, pid: object) -> bytes:
    """Return the agent's report with `pages` as JSON, or an `error` and when to ask again."""
    vm = _found(fleet, pid)
    if vm is None:
        return b"null"
    session = vm.channel.session
    pages = None if session is None else session.ask_pages()
    if session is None:
        said: dict[str, object] = {"error": "no agent answers", "again_s": None}
    elif pages is None:
        said = {"error": "another program is asking for its pages", "again_s": _BUSY_S}
    else:
        said = await pages.wait()
    return json.dumps({**said, "name": vm.name}).encode()


def _found(fleet: Fleet, pid: object) -> Watched | None:
    keys = fleet.pids.get(pid, set()) if isinstance(pid, int) else set()
    return next((fleet.vms[key] for key in keys), None)


async def _freshen(vm: Watched, by_cgroup: bool) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    session, guest = vm.channel.session, vm.guest
    is_fresh = bool(guest.line) and began_s - guest.line_at_s < _FRESH_S
    if session is None or (is_fresh and not by_cgroup):
        return
    session.ask(began_s, by_cgroup)
    while loop.time() < began_s + (_BY_CGROUP_PATIENCE_S if by_cgroup else _PATIENCE_S):
        if guest.line_at_s >= began_s:
            return
        await asyncio.sleep(0.01)
