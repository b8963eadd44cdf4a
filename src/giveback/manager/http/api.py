"""The manager's HTTP API: its resources, and the texts of refusals. No sockets.

Errors are problem documents (RFC 9457) whose `detail` says what to do. `server.Guard` checks the peer's
credentials before any resource runs. It limits how much a peer may send, and how slowly it may read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from giveback.errors import InputError, VmError
from giveback.manager.history.schema import HistoryError
from giveback.manager.http import openapi
from giveback.manager.http.answers import Problem, UrgencySet, Vms, encoded, reclaimed
from giveback.manager.http.feed import Feed
from giveback.manager.http.metrics import prometheus
from giveback.manager.http.requests import (
    FrameQuery,
    ReclaimBody,
    TimeSpan,
    UrgencyBody,
    UsageQuery,
    checked,
)
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from typing import TypeVar

    from prometheus_client.core import Metric as Family
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from giveback.manager.history.usage.readable import ReadableHistory
    from giveback.manager.model import DaemonStatus, Manager, ReclaimResult, VmStatus

    Result = TypeVar("Result")

STATUS_AGE_S = 0.3
BODY_LIMIT_BYTES = 64 << 10
BODY_WAIT_S = 10.0
CHUNK_BYTES = 64 << 10
RECLAIMS_AT_ONCE = 4
HISTORIES_AT_ONCE = 2


class ProblemError(GivebackError):
    """A refusal with its HTTP status and the title of its problem document."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title

    def response(self) -> Response:
        """Return the problem document."""
        headers = {"retry-after": "1"} if self.status == 503 else {}
        return Response(
            encoded(Problem("about:blank", self.title, self.status, str(self))),
            self.status,
            headers,
            media_type="application/problem+json",
        )


class StatusCache:
    """The manager's status, made at most every STATUS_AGE_S and encoded once for all clients."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._taken_s = -1e9
        self._status: DaemonStatus | None = None
        self._bytes: tuple[DaemonStatus, bytes] | None = None
        self._making = asyncio.Lock()

    def status(self) -> DaemonStatus:
        """Return the status; it is at most STATUS_AGE_S old."""
        now_s = time.monotonic()
        if self._status is None or now_s - self._taken_s >= STATUS_AGE_S:
            self._status, self._taken_s = self._manager.status(), now_s
        return self._status

    async def encoded(self) -> bytes:
        """Return the status as JSON. It is encoded in a thread, because 1,000 VMs are megabytes."""
        async with self._making:
            status = self.status()
            if self._bytes is None or self._bytes[0] is not status:
                self._bytes = (status, await asyncio.to_thread(encoded, status))
            return self._bytes[1]


class Api:
    """The API's resources, one method each. `stop` ends requests that would outlast the server."""

    def __init__(
        self, manager: Manager, history: Callable[[], ReadableHistory | None], stop: asyncio.Event
    ) -> None:
        self._manager = manager
        self._history = history
        self._stop = stop
        self.latest = StatusCache(manager)
        self.counts = prometheus.ActionCounts()
        self.feed = Feed(self.latest.status, lambda status: self.counts.saw(status.actions))
        self._scraped: DaemonStatus | None = None
        self._registry = prometheus.registry_of(self._for_scrape, self.counts)
        self._scraping = asyncio.Lock()
        self._reclaims = asyncio.Semaphore(RECLAIMS_AT_ONCE)
        self._histories = asyncio.Semaphore(HISTORIES_AT_ONCE)

    @property
    def has_history(self) -> bool:
        """Whether this daemon keeps a history."""
        return self._history() is not None

    def app(self, more: Sequence[Route] = ()) -> ASGIApp:
        """Return the application for the unix socket; `more` are the web page's own resources."""
        return _application([*(self._route(one) for one in openapi.RESOURCES), *more])

    def metrics_app(self) -> ASGIApp:
        """Return the application for a TCP port, which has /metrics alone."""
        offered = [one for one in openapi.RESOURCES if one.name == "metrics"]
        return _application([self._route(one) for one in offered])

    def _route(self, resource: openapi.Resource) -> Route:
        # A VM's key may contain slashes.
        path = resource.path.replace("{key}", "{key:path}")
        return Route(path, getattr(self, resource.name), methods=[resource.method])

    async def status(self, request: Request) -> Response:
        """Answer GET /v1/status: all that the daemon knows."""
        del request
        return streamed(await self.latest.encoded(), "application/json")

    async def vms(self, request: Request) -> Response:
        """Answer GET /v1/vms: the VMs alone."""
        del request
        vms = Vms(self.latest.status().vms)
        return streamed(await asyncio.to_thread(encoded, vms), "application/json")

    async def vm(self, request: Request) -> Response:
        """Answer GET /v1/vms/KEY: one VM, by key, name or pid."""
        return json_of(vm_called(self.latest.status(), request.path_params["key"]))

    async def history(self, request: Request) -> Response:
        """Answer GET /v1/history: the host's records, and those of one VM if it is named."""
        span = TimeSpan.of(dict(request.query_params), time.time())
        return await self._of_history(lambda past: past.span(span.from_s, span.to_s, span.vm))

    async def frame(self, request: Request) -> Response:
        """Answer GET /v1/history/frame: all VMs at one moment."""
        at_s = checked(FrameQuery, dict(request.query_params)).at
        return await self._of_history(lambda past: past.frame(at_s))

    async def usage(self, request: Request) -> Response:
        """Answer GET /v1/usage: what every VM used, and the RAM that would have sufficed."""
        span = TimeSpan.of(dict(request.query_params), time.time(), UsageQuery)
        return await self._of_history(lambda past: past.usage(span.from_s, span.to_s))

    async def _of_history(self, read: Callable[[ReadableHistory], object]) -> Response:
        """Return what is read from the history, in a thread. Raises ProblemError."""
        history = self._history()
        if history is None:
            raise ProblemError(
                404, "No history", "this daemon keeps no history: set history in its settings"
            )
        try:
            async with self._histories:
                body = await asyncio.to_thread(lambda: encoded(read(history)))
        except HistoryError as error:
            raise ProblemError(503, "No history", str(error)) from error
        return streamed(body, "application/json")

    async def events(self, request: Request) -> Response:
        """Answer GET /v1/events: changes, as they happen (server-sent events)."""
        del request
        return StreamingResponse(
            self._events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def _events(self) -> AsyncIterator[bytes]:
        with self.feed.listener() as listener:
            async for data in listener.events():
                yield data

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics, for Prometheus."""
        async with self._scraping:
            self.prepare_scrape()
            body, media_type = await asyncio.to_thread(
                prometheus.rendered, self._registry, request.headers.get("accept", "")
            )
        return streamed(body, media_type)

    def prepare_scrape(self) -> None:
        """Take the status, on the loop, from which the metrics are made next."""
        self._scraped = self.latest.status()
        self.counts.saw(self._scraped.actions)

    def families(self) -> list[Family]:
        """Return the metrics of the status that `prepare_scrape` took. A thread may call it."""
        return list(self._registry.collect())

    def _for_scrape(self) -> DaemonStatus:
        """Return the status that the loop took, for the thread that renders it."""
        if self._scraped is None:
            raise RuntimeError("rendered before a status was taken")
        return self._scraped

    async def openapi(self, request: Request) -> Response:
        """Answer GET /openapi.json: the description of the API."""
        del request
        return json_of(openapi.description())

    async def reclaim(self, request: Request) -> Response:
        """Answer POST /v1/reclaim: free memory now, until enough has come or the time is over."""
        wanted = checked(ReclaimBody, await body_of(request))
        keys = [vm_called(self.latest.status(), vm).key for vm in wanted.vms]
        if self._reclaims.locked():
            raise ProblemError(
                503, "Busy", f"{RECLAIMS_AT_ONCE} reclaims run already; try again soon"
            )
        async with self._reclaims:
            result = await self._while_wanted(request, self._reclaim(wanted, keys))
        return json_of(reclaimed(result))

    def _reclaim(
        self, wanted: ReclaimBody, keys: Sequence[str]
    ) -> Coroutine[object, object, ReclaimResult]:
        return self._manager.reclaim(
            wanted.goal_bytes, wanted.within_s, keys, dry_run=wanted.dry_run
        )

    async def urgency(self, request: Request) -> Response:
        """Answer POST /v1/vms/KEY/urgency: set one guest's urgency manually."""
        wanted = checked(UrgencyBody, await body_of(request))
        vm = vm_called(self.latest.status(), request.path_params["key"])
        await self._while_wanted(
            request, self._manager.set_urgency(vm.key, wanted.urgency, wanted.lease_s)
        )
        return json_of(UrgencySet(vm.key, wanted.urgency, wanted.lease_s))

    async def _while_wanted(
        self, request: Request, work: Coroutine[object, object, Result]
    ) -> Result:
        """Return the result of `work`. Cancel it if the daemon stops or the client disconnects."""
        task = asyncio.create_task(work)
        ends = asyncio.create_task(self._stop.wait()), asyncio.create_task(_leaves(request))
        try:
            await asyncio.wait((task, *ends), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                # A client that has disconnected does not read this.
                raise ProblemError(
                    503, "Stopping", "the daemon is stopping; the request was cancelled"
                )
            return task.result()
        finally:
            for one in (task, *ends):
                one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task, *ends))


def vm_called(status: DaemonStatus, name: str) -> VmStatus:
    """Return the VM with this key, or the only one with this name or pid. Raises ProblemError."""
    for vm in status.vms:
        if vm.key == name:
            return vm
    shown = escape_for_terminal(name, 200)
    found = [vm for vm in status.vms if name in (vm.name, str(vm.pid))]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(vm.key for vm in found[:10])
        raise ProblemError(
            409, "Several VMs", f"{shown!r}: several VMs have this name; use a key: {keys}"
        )
    there = ", ".join(vm.key for vm in status.vms[:20]) or "none"
    raise ProblemError(
        404, "No such VM", f"{shown!r}: no VM has this name, key or pid; the VMs are: {there}"
    )


async def _leaves(request: Request) -> None:
    """Wait until the client has disconnected; its body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request) -> object:
    """Return the request's JSON. Raises ProblemError if it is too long, too slow or not JSON."""
    data = b""
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_LIMIT_BYTES:
                    raise ProblemError(
                        413, "Too long", f"the body may have at most {BODY_LIMIT_BYTES} bytes"
                    )
    except TimeoutError as error:
        raise ProblemError(408, "Too slow", f"the body took more than {BODY_WAIT_S:g} s") from error
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "Not JSON", "the body is not JSON; see /openapi.json") from error


def json_of(value: object) -> Response:
    """Return a value as a JSON response."""
    return Response(encoded(value), media_type="application/json")


def streamed(body: bytes, media_type: str) -> Response:
    """Return a response sent in pieces: a slow client keeps one piece in memory, not a copy of all."""

    async def pieces() -> AsyncIterator[memoryview]:
        view = memoryview(body)
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]

    return StreamingResponse(
        pieces(), media_type=media_type, headers={"content-length": str(len(body))}
    )


def _application(routes: list[Route]) -> ASGIApp:
    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        GivebackError: _refused,
        HTTPException: _refused,
        # Answered, and then raised again, so that it is logged.
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """Return an expected error as a problem document."""
    if isinstance(error, ProblemError):
        return error.response()
    if isinstance(error, InputError):
        return ProblemError(400, "Bad request", str(error)).response()
    if isinstance(error, VmError):
        return ProblemError(502, "VM failed", str(error)).response()
    if isinstance(error, HTTPException):
        path = quote(request.url.path[:200])
        words = f"{request.method} {path}: {error.detail}; /openapi.json lists all resources"
        response = ProblemError(error.status_code, str(error.detail), words).response()
        response.headers.update(error.headers or {})
        return response
    return ProblemError(500, "Failed", str(error)).response()


async def _failed(request: Request, error: Exception) -> Response:
    del request
    words = f"{type(error).__name__}: an internal error of giveback; see the daemon's log"
    return ProblemError(500, "Failed", words).response()
