"""The API and /metrics on a unix socket, and /metrics alone on a loopback port: uvicorn, tamed.

uvicorn runs as a task of the manager's own loop: it takes no signals, has no timer, and ends when
told. The peer's credentials are read from the socket when it connects (`giveback.manager.settings.access`).
No client can hold up the loop: each has a time to say what it wants, a time to take an answer, and
a bounded number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from giveback.errors import InputError
from giveback.manager.http.api import Api, ProblemError
from giveback.manager.settings.access import Access, Level, Peer, group_id, peer_of
from giveback.manager.settings.units import loopback_of
from giveback.vmm.clients.sockets import remove_stale

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from giveback.manager.model import Manager

SOCKET_PATH = "/run/giveback-daemon/api.sock"
CONNECTIONS = 64
CONNECTIONS_OF_READERS = 48
"""Counted apart, as are each user's that are not heard yet: root gets in whatever readers do."""
HEAD_S = 10.0
SEND_S = 20.0
IDLE_S = 30
GRACE_S = 2
_HEADER_LIMIT_BYTES = 32 << 10
_BACKLOG = 512
_UNIX_PATH_LIMIT_BYTES = 107
_UNKNOWN = Peer(-1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the surfaces are, and who may use them.

    `access` is made of words in settings by `giveback.manager.settings.access.access(writers, readers)`.
    """

    socket_path: str = SOCKET_PATH
    socket_mode: int = 0o660
    socket_group: str = ""
    """"" keeps the group of who makes it."""
    access: Access = field(default_factory=Access)
    metrics_listen: str = ""
    """`127.0.0.1:9835`: /metrics alone over TCP, read-only, for a Prometheus that knows no sockets."""
    history_path: str = ""
    """The file that /v1/history reads; "" where no history is kept."""


@dataclass(slots=True)
class Serving:
    """Surfaces that are up. `access` may be replaced (SIGHUP) at any time."""

    access: Access
    metrics_address: tuple[str, int] | None = None


@contextlib.asynccontextmanager
async def serving(manager: Manager, endpoint: Endpoint) -> AsyncIterator[Serving]:
    """Serve the API and /metrics on this loop while the block runs. Takes no signals.

    Raises InputError where the socket is a live daemon's, or cannot be made.
    """
    stop = asyncio.Event()
    api = Api(manager, endpoint.history_path, stop)
    shown = Serving(endpoint.access)
    async with contextlib.AsyncExitStack() as stack:
        unix = stack.enter_context(unix_listener(endpoint))
        guarded = Guard(api.app(), shown)
        await stack.enter_async_context(_running(guarded, unix, stop))
        if endpoint.metrics_listen:
            tcp = stack.enter_context(contextlib.closing(_tcp_listener(endpoint.metrics_listen)))
            shown.metrics_address = tcp.getsockname()[:2]
            open_to_all = Guard(api.metrics_app(), None)
            await stack.enter_async_context(_running(open_to_all, tcp, stop))
        feeding = asyncio.create_task(api.feed.run(), name="feed")
        try:
            yield shown
        finally:
            stop.set()
            api.feed.end()
            feeding.cancel()
            await asyncio.wait((feeding,))


class _Server(uvicorn.Server):
    """uvicorn without its signals and its ten looks a second."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stop.wait()


@contextlib.asynccontextmanager
async def _running(app: Guard, listener: socket.socket, stop: asyncio.Event) -> AsyncIterator[None]:
    """A server on a socket that listens; ended, with its clients, when the block ends."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=_HEADER_LIMIT_BYTES,
        backlog=_BACKLOG,
    )
    server = _Server(config, stop)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="api")
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait((task,))
        task.exception()
        for connection in list(server.server_state.connections):
            connection.transport.abort()


class _Protocol(H11Protocol):
    """Knows who connected, and does not wait for ever to hear what for."""

    peer = _UNKNOWN
    _hearing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.peer = _peer(transport)
        self.app_state = {
            "peer": self.peer,
            "abort": self.transport.abort,
            "connections": self.connections,
        }
        connections: set[Any] = self.connections
        if sum(other.peer.uid == self.peer.uid for other in connections) > 2 * CONNECTIONS:
            self.transport.abort()
            return
        self._hearing = self.loop.call_later(HEAD_S, self._look_at_head)

    def data_received(self, data: bytes) -> None:
        if self._hearing is None:
            self._hearing = self.loop.call_later(HEAD_S, self._look_at_head)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
        super().connection_lost(exc)

    def _look_at_head(self) -> None:
        """A request's head must be whole by now; uvicorn itself would wait for it for ever."""
        self._hearing = None
        is_between = self.cycle is not None and self.cycle.response_complete
        if self.cycle is None or (is_between and self.conn.trailing_data[0]):
            self.transport.abort()


def _peer(transport: asyncio.BaseTransport) -> Peer:
    connection = transport.get_extra_info("socket")
    try:
        return peer_of(connection) if connection.family == socket.AF_UNIX else _UNKNOWN
    except OSError:
        return _UNKNOWN


class Guard:
    """Before any resource: may this peer do that, is there room for it, and does it read?

    `rules` is None for what everyone who can connect may read.
    """

    def __init__(self, app: ASGIApp, rules: Serving | None) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        state: dict[str, Any] = scope["state"]

        async def bounded(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_S):
                    await send(message)
            except TimeoutError:
                state["abort"]()
                raise ConnectionAbortedError("the client does not read") from None

        problem = self._problem(scope, state)
        try:
            if problem is None:
                await self._app(scope, receive, bounded)
            else:
                await problem.response()(scope, receive, bounded)
        except ConnectionAbortedError:
            return
        except asyncio.CancelledError:
            # uvicorn ends what has not read its answer when the daemon stops: nothing to report.
            state["abort"]()

    def _problem(self, scope: Scope, state: dict[str, Any]) -> ProblemError | None:
        peer: Peer = state["peer"]
        reads = scope["method"] in ("GET", "HEAD")
        level = self._level(peer)
        if level < (Level.READ if reads else Level.WRITE):
            return _forbidden(peer, level)
        most = CONNECTIONS if level is Level.WRITE else CONNECTIONS_OF_READERS
        if sum(self._level(other.peer) == level for other in state["connections"]) > most:
            return ProblemError(503, "Too many clients", f"{most} are connected; try again soon")
        return None

    def _level(self, peer: Peer) -> Level:
        return Level.READ if self._rules is None else self._rules.access.level(peer)


def _forbidden(peer: Peer, level: Level) -> ProblemError:
    if peer.uid < 0:
        return ProblemError(403, "Forbidden", "who connects is not known: use the unix socket")
    if level is Level.READ:
        words = f"uid {peer.uid} may only read: add it to `writers` in the settings, or use sudo"
    else:
        words = f"uid {peer.uid} may do nothing: add it to `readers` in the settings, or use sudo"
    return ProblemError(403, "Forbidden", words)


@contextlib.contextmanager
def unix_listener(endpoint: Endpoint) -> Iterator[socket.socket]:
    """The socket, made with its mode; what a dead daemon left is replaced. Raises InputError."""
    path = endpoint.socket_path
    if len(os.fsencode(path)) > _UNIX_PATH_LIMIT_BYTES:
        raise InputError(f"{path}: longer than a unix socket's path may be (107 bytes)")
    group = group_id(endpoint.socket_group) if endpoint.socket_group else -1
    try:
        with _alone(path):
            remove_stale(path)
            listener = _bound(path, endpoint.socket_mode, group)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(f"{path}: {reason}; name another socket in the settings") from error
    inode = Path(path).stat().st_ino
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            # Not another's: that one may have replaced it meanwhile.
            if Path(path).stat().st_ino == inode:
                Path(path).unlink()


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Of two daemons that start at once, the second looks when the first one's socket is up."""
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _bound(path: str, mode: int, group: int) -> socket.socket:
    """Listening; before that nobody gets in, whatever the mode is. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    try:
        if group != -1:
            os.chown(path, -1, group)
        Path(path).chmod(mode)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        Path(path).unlink(missing_ok=True)
        raise
    return listener


def _tcp_listener(address: str) -> socket.socket:
    """A loopback port. Raises InputError for any other address: VMs' names are in the metrics."""
    try:
        ip, number = loopback_of(address)
    except ValueError as error:
        raise InputError(f"metrics_listen: {error}") from error
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(ip), number))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = os.strerror(getattr(error, "errno", None) or errno.EINVAL)
        raise InputError(f"metrics_listen {address!r}: {reason}; name another port") from error
    return listener
