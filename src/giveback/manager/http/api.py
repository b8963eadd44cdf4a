"""The manager's HTTP API: what may be asked, by whom, and how refusals are worded. No sockets.

Errors are problem documents (RFC 9457) whose `detail` says what to do. `Guard` decides by the
peer's credentials before anything else runs, and bounds what a peer may send and how slowly it
may read.
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
from giveback.manager.history import reader
from giveback.manager.history.schema import HistoryError
from giveback.manager.http import metrics, openapi
from giveback.manager.http.answers import Problem, UrgencySet, Vms, encoded, reclaimed
from giveback.manager.http.feed import Feed
from giveback.manager.http.requests import ReclaimBody, TimeSpan, UrgencyBody, checked
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from typing import TypeVar

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from giveback.manager.model import DaemonStatus, Manager, ReclaimResult, VmStatus

    Result = TypeVar("Result")

STATUS_AGE_S = 0.3
BODY_LIMIT_BYTES = 64 << 10
BODY_WAIT_S = 10.0
CHUNK_BYTES = 64 << 10
RECLAIMS_AT_ONCE = 4
HISTORIES_AT_ONCE = 2


class ProblemError(GivebackError):
    """A refusal, as the API words it."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title

    def response(self) -> Response:
        """The problem document."""
        headers = {"retry-after": "1"} if self.status == 503 else {}
        return Response(
            encoded(Problem("about:blank", self.title, self.status, str(self))),
            self.status,
            headers,
            media_type="application/problem+json",
        )


class Picture:
    """The manager's status, asked for at most every STATUS_AGE_S, and made to bytes once for all."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._taken_s = -1e9
        self._status: DaemonStatus | None = None
        self._bytes: tuple[DaemonStatus, bytes] | None = None
        self._making = asyncio.Lock()

    def status(self) -> DaemonStatus:
        """The latest."""
        now_s = time.monotonic()
        if self._status is None or now_s - self._taken_s >= STATUS_AGE_S:
            self._status, self._taken_s = self._manager.status(), now_s
        return self._status

    async def encoded(self) -> bytes:
        """The latest as JSON; made in a thread, as 1,000 VMs are megabytes."""
        async with self._making:
            status = self.status()
            if self._bytes is None or self._bytes[0] is not status:
                self._bytes = (status, await asyncio.to_thread(encoded, status))
            return self._bytes[1]


class Api:
    """The resources. `stop` ends what would otherwise outlast the server."""

    def __init__(self, manager: Manager, history_path: str, stop: asyncio.Event) -> None:
        self._manager = manager
        self._history_path = history_path
        self._stop = stop
        self.picture = Picture(manager)
        self.counts = metrics.ActionCounts()
        self.feed = Feed(self.picture.status, lambda status: self.counts.saw(status.actions))
        self._scraped: DaemonStatus | None = None
        self._registry = metrics.registry_of(self._for_scrape, self.counts)
        self._scraping = asyncio.Lock()
        self._reclaims = asyncio.Semaphore(RECLAIMS_AT_ONCE)
        self._histories = asyncio.Semaphore(HISTORIES_AT_ONCE)

    @property
    def has_history(self) -> bool:
        """Whether /v1/history has something to tell."""
        return bool(self._history_path)

    def app(self, more: Sequence[Route] = ()) -> ASGIApp:
        """The application behind the unix socket, with the web page's own resources."""
        return _application([*(self._route(one) for one in openapi.RESOURCES), *more])

    def metrics_app(self) -> ASGIApp:
        """What a TCP port offers: /metrics alone."""
        offered = [one for one in openapi.RESOURCES if one.name == "metrics"]
        return _application([self._route(one) for one in offered])

    def _route(self, resource: openapi.Resource) -> Route:
        # A VM's key may have slashes in it.
        path = resource.path.replace("{key}", "{key:path}")
        return Route(path, getattr(self, resource.name), methods=[resource.method])

    async def status(self, request: Request) -> Response:
        """All of it."""
        del request
        return streamed(await self.picture.encoded(), "application/json")

    async def vms(self, request: Request) -> Response:
        """The VMs alone."""
        del request
        vms = Vms(self.picture.status().vms)
        return streamed(await asyncio.to_thread(encoded, vms), "application/json")

    async def vm(self, request: Request) -> Response:
        """One VM, by key or name."""
        return json_of(vm_called(self.picture.status(), request.path_params["key"]))

    async def history(self, request: Request) -> Response:
        """The host's past, or one VM's."""
        if not self._history_path:
            raise ProblemError(
                404, "No history", "this daemon keeps none: set history in its settings"
            )
        span = TimeSpan.of(dict(request.query_params), time.time())
        try:
            async with self._histories:
                found = await asyncio.to_thread(
                    reader.read, self._history_path, span.from_s, span.to_s, span.vm
                )
                body = await asyncio.to_thread(encoded, found)
        except HistoryError as error:
            raise ProblemError(503, "No history", str(error)) from error
        return streamed(body, "application/json")

    async def events(self, request: Request) -> Response:
        """What changes, as it does."""
        del request
        return StreamingResponse(
            self._events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def _events(self) -> AsyncIterator[bytes]:
        with self.feed.listener() as listener:
            async for data in listener.events():
                yield data

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        async with self._scraping:
            self._scraped = self.picture.status()
            self.counts.saw(self._scraped.actions)
            body, media_type = await asyncio.to_thread(
                metrics.rendered, self._registry, request.headers.get("accept", "")
            )
        return streamed(body, media_type)

    def _for_scrape(self) -> DaemonStatus:
        """In the rendering thread: the picture that the loop took."""
        if self._scraped is None:
            raise RuntimeError("rendered before a picture was taken")
        return self._scraped

    async def openapi(self, request: Request) -> Response:
        """What all this is."""
        del request
        return json_of(openapi.description())

    async def reclaim(self, request: Request) -> Response:
        """Free memory now. Answers when enough has come, or the time is over."""
        wanted = checked(ReclaimBody, await body_of(request))
        keys = [vm_called(self.picture.status(), vm).key for vm in wanted.vms]
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
        """Tell one guest an urgency by hand."""
        wanted = checked(UrgencyBody, await body_of(request))
        vm = vm_called(self.picture.status(), request.path_params["key"])
        await self._while_wanted(
            request, self._manager.set_urgency(vm.key, wanted.urgency, wanted.lease_s)
        )
        return json_of(UrgencySet(vm.key, wanted.urgency, wanted.lease_s))

    async def _while_wanted(
        self, request: Request, work: Coroutine[object, object, Result]
    ) -> Result:
        """The work's result, unless the daemon stops or who asked for it leaves before."""
        task = asyncio.create_task(work)
        ends = asyncio.create_task(self._stop.wait()), asyncio.create_task(_leaves(request))
        try:
            await asyncio.wait((task, *ends), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                # Who has left does not read it.
                raise ProblemError(
                    503, "Stopping", "the daemon stops; what was asked goes no further"
                )
            return task.result()
        finally:
            for one in (task, *ends):
                one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task, *ends))


def vm_called(status: DaemonStatus, word: str) -> VmStatus:
    """By key, else by a name or pid that one VM alone has."""
    for vm in status.vms:
        if vm.key == word:
            return vm
    shown = escape_for_terminal(word, 200)
    found = [vm for vm in status.vms if word in (vm.name, str(vm.pid))]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(vm.key for vm in found[:10])
        raise ProblemError(
            409, "Several VMs", f"{shown!r}: several are called so; use a key: {keys}"
        )
    there = ", ".join(vm.key for vm in status.vms[:20]) or "none"
    raise ProblemError(
        404, "No such VM", f"{shown!r}: no VM of that name, key or pid; there are: {there}"
    )


async def _leaves(request: Request) -> None:
    """Returns when the client is gone; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request) -> object:
    """The request's JSON, bounded in size and time."""
    data = b""
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_LIMIT_BYTES:
                    raise ProblemError(
                        413, "Too long", f"a body has at most {BODY_LIMIT_BYTES} bytes here"
                    )
    except TimeoutError as error:
        raise ProblemError(408, "Too slow", f"the body took more than {BODY_WAIT_S:g} s") from error
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "No JSON", "the body is no JSON; see /openapi.json") from error


def json_of(value: object) -> Response:
    return Response(encoded(value), media_type="application/json")


def streamed(body: bytes, media_type: str) -> Response:
    """Sent in pieces: a client that reads slowly holds one piece, not a copy of all."""

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
        # Sent, and then raised again, so that the log has it.
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """Every error that is raised on purpose, as a problem document."""
    if isinstance(error, ProblemError):
        return error.response()
    if isinstance(error, InputError):
        return ProblemError(400, "Bad request", str(error)).response()
    if isinstance(error, VmError):
        return ProblemError(502, "The VM did not do it", str(error)).response()
    if isinstance(error, HTTPException):
        path = quote(request.url.path[:200])
        words = f"{request.method} {path}: {error.detail}; /openapi.json lists what there is"
        response = ProblemError(error.status_code, str(error.detail), words).response()
        response.headers.update(error.headers or {})
        return response
    return ProblemError(500, "Failed", str(error)).response()


async def _failed(request: Request, error: Exception) -> Response:
    del request
    words = f"{type(error).__name__}: a fault of giveback; the daemon's log has it"
    return ProblemError(500, "Failed", words).response()
