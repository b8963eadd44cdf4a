"""Serve the API and /metrics on a unix socket, and /metrics alone on a loopback port, by uvicorn.

uvicorn runs as a task of the manager's own loop. It handles no signals, has no timer, and ends when
`stop` is set. The peer's credentials are read from the socket when it connects
(`giveback.manager.settings.access`). No client can block the loop: the time for a request's head, the time
to read an answer, and the number of connections are limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from giveback.errors import InputError, VmError, file_error
from giveback.host.sockets import sock_diag
from giveback.manager.http.api import Api, ProblemError
from giveback.manager.http.audit import Audit, Entry
from giveback.manager.http.callers import Caller
from giveback.manager.settings.access import ApiAccess, ApiPeer, Level, group_id, peer_of
from giveback.manager.settings.values import loopback_of
from giveback.vmm.clients.sockets import remove_stale
from giveback_kernel import private_lock
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.server import ServerState

    from giveback.manager.history.usage.readable import ReadableHistory
    from giveback.manager.http.callers import Pages
    from giveback.manager.http.metrics.otlp import OtlpExport
    from giveback.manager.model import Manager

CONNECTIONS = 64
CONNECTIONS_OF_READERS = 48
"""Readers and writers are counted apart, and so are each user's connections without a request yet. So root
can connect whatever readers do."""
CONNECTIONS_OF_BROWSERS = 256
"""Connections with a session at the page's port: a browser has one stream, and a few short requests."""
CONNECTIONS_OF_ALL = 1024
"""Connections at one address of all users but root: one user's containers may have 65,536 uids."""
HEAD_S = 10.0
"""Seconds from a connection's start, or from the end of an answer, to a request's complete head."""
SEND_S = 20.0
GRACE_S = 2
_HEADER_LIMIT_BYTES = 32 << 10
_BACKLOG = 512
_UNIX_PATH_LIMIT_BYTES = 107
_BIND_WAIT_S = 5.0
_UNKNOWN = ApiPeer(-1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The addresses of the API and of /metrics, and their users (`settings.access.access`)."""

    socket_path: str
    socket_mode: int = 0o660
    socket_group: str = ""
    """"" keeps the daemon's own group."""
    access: ApiAccess = field(default_factory=ApiAccess)
    metrics_listen: str = ""
    """`127.0.0.1:9835`: /metrics alone over TCP, read-only, for Prometheus, which has no unix sockets."""
    web_listen: str = ""
    """`127.0.0.1:9836`: the web page and the API over TCP, for browsers that have logged in."""
    history: Callable[[], ReadableHistory | None] = lambda: None
    """What /v1/history and /v1/usage read, by the settings of now; None if no history is kept."""
    otlp: OtlpExport | None = None


@dataclass(slots=True)
class Serving:
    """The running servers. `access` may be replaced (SIGHUP) at any time."""

    access: ApiAccess
    metrics_address: tuple[str, int] | None = None
    web_address: tuple[str, int] | None = None
    socket_path: str = ""
    guards: list[Guard] = field(default_factory=list)

    def end_session(self, number: str) -> None:
        """Close all connections of a session that was revoked."""
        for guard in self.guards:
            for connection in list(guard.connections):
                if connection.caller.session == number:
                    connection.abort()


@contextlib.asynccontextmanager
async def serving(
    manager: Manager, endpoint: Endpoint, pages: Pages | None = None
) -> AsyncIterator[Serving]:
    """Serve the API, /metrics and the page on this loop while the block runs. Handles no signals.

    Raises InputError if a running daemon has the socket, or it cannot be created.
    """
    stop = asyncio.Event()
    api = Api(manager, endpoint.history, stop)
    shown = Serving(endpoint.access, socket_path=endpoint.socket_path)
    async with contextlib.AsyncExitStack() as stack:
        unix = stack.enter_context(unix_listener(endpoint))
        app = api.app(() if pages is None else pages.routes(api, shown))
        guarded = Guard(app, shown, endpoint.socket_path, pages)
        shown.guards.append(guarded)
        await stack.enter_async_context(_running(guarded, unix, stop))
        if endpoint.web_listen and pages is not None:
            tcp = stack.enter_context(_tcp_listener(endpoint.web_listen, "web_listen"))
            shown.web_address = tcp.getsockname()[:2]
            browsers = BrowserGuard(app, shown, f"port {shown.web_address[1]}", pages)
            shown.guards.append(browsers)
            await stack.enter_async_context(_running(browsers, tcp, stop))
        if endpoint.metrics_listen:
            tcp = stack.enter_context(_tcp_listener(endpoint.metrics_listen, "metrics_listen"))
            shown.metrics_address = tcp.getsockname()[:2]
            open_to_all = Guard(api.metrics_app(), None)
            await stack.enter_async_context(_running(open_to_all, tcp, stop))
        tasks = [asyncio.create_task(api.feed.run(), name="feed")]
        if pages is not None:
            tasks.append(asyncio.create_task(pages.run(), name="pages"))
        if endpoint.otlp is not None:
            tasks.append(asyncio.create_task(endpoint.otlp.run(api.families, api.prepare_scrape)))
        try:
            yield shown
        finally:
            stop.set()
            api.feed.end()
            if pages is not None:
                pages.end()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class _Server(uvicorn.Server):
    """A uvicorn server without signal handlers and without polling; uvicorn has no options for these.

    The daemon has its own handlers. Ten polls a second took 0.17 % of a CPU; waiting for `stop` takes
    0.005 %.
    """

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def main_loop(self) -> None:
        """Wait for `stop` instead of polling."""
        await self._stop.wait()
        await self._settle()

    async def _settle(self) -> None:
        """Accept no more connections, and let those begin that were accepted just now.

        asyncio's server forgets a connection that begins after its `close`, and leaves it open.
        """
        loop = asyncio.get_running_loop()
        for listener in (one for server in self.servers for one in server.sockets):
            loop.remove_reader(listener.fileno())
        for _ in range(2):  # A turn until it has a transport, one until `connection_made`.
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _running(app: Guard, listener: socket.socket, stop: asyncio.Event) -> AsyncIterator[None]:
    """Run a server on a listening socket; end it and its connections when the block ends."""
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=int(HEAD_S),
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=_HEADER_LIMIT_BYTES,
        backlog=_BACKLOG,
    )
    task = asyncio.create_task(_Server(config, stop).serve(sockets=[listener]), name="api")
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait((task,))
        task.exception()
        for connection in list(app.connections):
            connection.abort()


class _Connection(H11Protocol):
    """One client's connection, with its peer and a timer for the head of its next request.

    uvicorn creates one for each client (`http=`). It has options for neither: it closes an idle connection,
    but waits forever for a head that has begun, and its scopes do not name the peer of a unix socket.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._guard = cast("Guard", config.app)
        self._all = self._guard.connections
        self._answering = 0
        self._silence: asyncio.TimerHandle | None = None
        self.peer = _UNKNOWN
        self.owner: int | None = -1
        self.caller = Caller(_UNKNOWN, Level.NOTHING)
        """The caller of the last request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.abort = self.transport.abort
        self.peer = _peer(transport)
        self.owner = self._guard.owner(transport, self.peer)
        self.caller = Caller(self.peer, self._guard.level(self.peer))
        self._all.add(self)
        of_all = self.owner and sum(other.owner != 0 for other in self._all) > CONNECTIONS_OF_ALL
        if of_all or sum(o.owner == self.owner for o in self._all) > self._guard.of_one_user_most:
            self.abort()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._end_silence()
        super().connection_lost(exc)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Stop the timer while the block answers a request; then wait for the next head."""
        self._answering += 1
        self._end_silence()
        try:
            yield
        finally:
            self._answering -= 1
            # If the client has pipelined a request, that one is being answered already.
            if not self._answering and not self.transport.is_closing():
                self._await_head()

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(HEAD_S, self.abort)

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()


def _peer(transport: asyncio.BaseTransport) -> ApiPeer:
    connection = transport.get_extra_info("socket")
    try:
        return peer_of(connection) if connection.family == socket.AF_UNIX else _UNKNOWN
    except OSError:
        return _UNKNOWN


class Guard:
    """The application around all resources: checks rights, the number of connections, slow readers.

    `rules` is None for what everyone who can connect may read. `pages` knows browsers.
    """

    of_one_user_most = 2 * CONNECTIONS

    def __init__(
        self,
        app: ASGIApp,
        rules: Serving | None,
        place: str = "",
        pages: Pages | None = None,
    ) -> None:
        self._app = app
        self._rules = rules
        self._place = place
        self._pages = pages
        self._audit = Audit()
        self.connections: set[_Connection] = set()

    def owner(self, transport: asyncio.BaseTransport, peer: ApiPeer) -> int | None:
        """Return the user of a connection, for its limit and its sessions."""
        del transport
        return peer.uid

    def level(self, peer: ApiPeer) -> Level:
        """Return the rights of a peer that is not a browser."""
        return Level.READ if self._rules is None else self._rules.access.level(peer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        connection: _Connection = scope["state"]["connection"]

        async def bounded(message: Message) -> None:
            if self._pages is not None and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._pages.headers]}
            try:
                async with asyncio.timeout(SEND_S):
                    await send(message)
            except TimeoutError:
                connection.abort()
                raise ConnectionAbortedError("the client does not read") from None

        problem = self._problem(scope, connection)
        answer = self._app if problem is None else problem.response()
        entry = None if _reads(scope) else Entry(scope, connection.caller.peer, self._place)
        try:
            with connection.answering():
                if entry is None:
                    await answer(scope, receive, bounded)
                else:
                    await answer(scope, entry.receiving(receive), entry.sending(bounded))
        except (ConnectionAbortedError, ClientDisconnect, asyncio.CancelledError):
            # When the daemon stops, uvicorn ends connections that have not read their answer. Clients
            # may disconnect at any time. Neither is an error to report.
            return
        finally:
            if entry is not None:
                self._audit.write(entry)

    def _problem(self, scope: Scope, connection: _Connection) -> ProblemError | None:
        found = None if self._pages is None else self._pages.caller(scope, connection)
        if isinstance(found, ProblemError):
            return found
        caller = found or Caller(connection.peer, self.level(connection.peer))
        connection.caller = caller
        needed = None if self._pages is None else self._pages.needs(scope)
        if needed is None:
            needed = Level.READ if _reads(scope) else Level.WRITE
        if caller.level < needed:
            return _forbidden(caller)
        most = self._most(caller.level)
        if caller.level and sum(self._counts(caller, other) for other in self.connections) > most:
            detail = f"{most} clients are connected; try again soon"
            return ProblemError(503, "Too many clients", detail)
        return None

    def _most(self, level: Level) -> int:
        return CONNECTIONS if level is Level.WRITE else CONNECTIONS_OF_READERS

    def _counts(self, caller: Caller, other: _Connection) -> bool:
        """Return whether another connection counts against this caller's limit."""
        return self.level(other.peer) == caller.level


class BrowserGuard(Guard):
    """The guard of the page's port: a client has no rights until its session is known."""

    of_one_user_most = 2 * CONNECTIONS_OF_BROWSERS

    def __init__(self, app: ASGIApp, rules: Serving, place: str, pages: Pages) -> None:
        super().__init__(app, rules, place, pages)
        try:
            sock_diag.tcp_listeners()
        except VmError:
            # Without tcp_diag: the session's two secrets alone say whose browser it is.
            self._can_tell = False
        else:
            self._can_tell = True

    def owner(self, transport: asyncio.BaseTransport, peer: ApiPeer) -> int | None:
        """Return a connection's user by the kernel's own list; None if the kernel has no such list."""
        del peer
        server, client = (transport.get_extra_info(name) for name in ("sockname", "peername"))
        if not self._can_tell or not client:
            return None if client else -1
        try:
            return sock_diag.tcp_owner(client[:2], server[:2])
        except VmError:
            return -1

    def level(self, peer: ApiPeer) -> Level:
        """Return no rights: a session gives them."""
        del peer
        return Level.NOTHING

    def _most(self, level: Level) -> int:
        del level
        return CONNECTIONS_OF_BROWSERS

    def _counts(self, caller: Caller, other: _Connection) -> bool:
        del caller
        return bool(other.caller.session)


def _reads(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD")


def _forbidden(caller: Caller) -> ProblemError:
    uid, level = caller.peer.uid, caller.level
    if uid < 0:
        return ProblemError(403, "Forbidden", "the client's user is unknown: use the unix socket")
    if level is Level.READ:
        words = f"uid {uid} may only read: add it to `writers` in the settings, or use sudo"
    else:
        words = f"uid {uid} may do nothing: add it to `readers` in the settings, or use sudo"
    return ProblemError(403, "Forbidden", words)


@contextlib.contextmanager
def unix_listener(endpoint: Endpoint) -> Iterator[socket.socket]:
    """Yield the listening socket, created with its mode; a dead daemon's socket is replaced.

    Raises InputError, or HostFaultError if a later attempt may succeed.
    """
    path = endpoint.socket_path
    if len(os.fsencode(path)) > _UNIX_PATH_LIMIT_BYTES:
        raise InputError(f"{path}: longer than a unix socket's path may be (107 bytes)")
    group = group_id(endpoint.socket_group) if endpoint.socket_group else -1
    try:
        with _alone(path):
            remove_stale(path)
            listener = _bound(path, endpoint.socket_mode, group)
    except (OSError, KernelFileError) as error:
        advice = "name another socket in the settings"
        raise file_error(path, error, advice) from error
    inode = Path(path).stat().st_ino
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            # Another daemon may have replaced the socket since; then it stays.
            if Path(path).stat().st_ino == inode:
                Path(path).unlink()


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Hold the socket's lock, so that of two daemons that start at once the second sees the first."""
    lock_path = f"{path}.lock"
    fd = private_lock.take(lock_path, _BIND_WAIT_S)
    if fd is None:
        raise InputError(f"{lock_path}: another daemon has held it for {_BIND_WAIT_S:.0f} s")
    try:
        yield
    finally:
        private_lock.remove(lock_path, fd)


def _bound(path: str, mode: int, group: int) -> socket.socket:
    """Return the listening socket. Raises OSError.

    It listens only after its mode is set; before that no client can connect.
    """
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
    except OSError:
        listener.close()
        Path(path).unlink(missing_ok=True)
        raise
    return listener


def _tcp_listener(address: str, setting: str) -> socket.socket:
    """Return a listening loopback port.

    Raises InputError for any other address, because it shows VMs' names; HostFaultError if a later attempt
    may succeed.
    """
    try:
        ip, number = loopback_of(address)
    except ValueError as error:
        raise InputError(f"{setting}: {error}") from error
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(ip), number), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise file_error(f"{setting} {address!r}", error, "name another port") from error
