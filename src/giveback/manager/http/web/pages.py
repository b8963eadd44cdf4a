"""The page's resources, and the rights of browsers.

The page's files contain no data, so every client may load them; all else needs a session. A browser's request
never gets the rights of its connection: through a tunnel, a foreign page could use them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from giveback.errors import InputError
from giveback.manager.http.answers import reclaimed
from giveback.manager.http.api import ProblemError, body_of, json_of, vm_called
from giveback.manager.http.callers import Caller
from giveback.manager.http.requests import GOAL_LEAST_BYTES, GOAL_MOST_BYTES, WITHIN_S
from giveback.manager.http.web import assets, headers
from giveback.manager.http.web.details import Details
from giveback.manager.http.web.live import Live, Owners, paced
from giveback.manager.http.web.records import LoggedIn, WebMe, WebSession, WebSessions, WebToken
from giveback.manager.http.web.sessions import SESSION_S, TOKEN_S
from giveback.manager.settings import errors
from giveback.manager.settings.access import Level
from giveback_kernel import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.types import Scope

    from giveback.manager.http.api import Api
    from giveback.manager.http.callers import ClientConnection, Surfaces
    from giveback.manager.http.web.sessions import Session, Sessions
    from giveback.manager.model import Manager

_STRICT = ConfigDict(extra="forbid")
_Uid = Annotated[int, Field(strict=True, ge=0, lt=(1 << 32) - 1)]
_Secret = Annotated[str, Field(min_length=1, max_length=200)]
PLANS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class TokenBody:
    """The body of POST /web/token."""

    __pydantic_config__ = _STRICT
    browser_uid: _Uid | None = None
    """The user whose browser may use it; None: the caller."""
    read_only: Annotated[bool, Field(strict=True)] = False


@dataclass(frozen=True, slots=True)
class LoginBody:
    """The body of POST /web/login."""

    __pydantic_config__ = _STRICT
    token: _Secret


@dataclass(frozen=True, slots=True)
class RevokeBody:
    """The body of POST /web/revoke."""

    __pydantic_config__ = _STRICT
    id: _Secret


@dataclass(frozen=True, slots=True)
class PlanQuery:
    """The query of GET /web/plan, which is like `giveback reclaim --dry-run`."""

    __pydantic_config__ = _STRICT
    goal_bytes: Annotated[int, Field(ge=GOAL_LEAST_BYTES, le=GOAL_MOST_BYTES)]


_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (TokenBody, LoginBody, RevokeBody, PlanQuery)
}
_NEEDS = {
    "/": Level.NOTHING, "/web/login": Level.NOTHING, "/web/logout": Level.READ,
    "/web/token": Level.READ, "/web/revoke": Level.READ,
}  # fmt: skip


class WebPages:
    """The page; it implements `giveback.manager.http.callers.Pages`. `acts` False: browsers may only read."""

    headers: tuple[tuple[bytes, bytes], ...] = headers.SECURITY

    def __init__(self, manager: Manager, sessions: Sessions, *, acts: bool = True) -> None:
        self._manager = manager
        self._sessions = sessions
        self._acts = acts
        self._assets = assets.read_all()
        self._surfaces: Surfaces | None = None
        self._live = Live(manager.status)
        self._owners = Owners()
        self._plans = asyncio.Semaphore(PLANS_AT_ONCE)
        self._details = Details()
        self._has_history = False

    # giveback.manager.http.callers.Pages

    def routes(self, api: Api, surfaces: Surfaces) -> Sequence[Route]:
        """Return the page's own resources."""
        self._surfaces = surfaces
        self._has_history = api.has_history
        return (
            Route("/", self._file),
            Route("/static/{path:path}", self._file),
            Route("/web/login", self._log_in, methods=["POST"]),
            Route("/web/logout", self._log_out, methods=["POST"]),
            Route("/web/token", self._token, methods=["POST"]),
            Route("/web/sessions", self._listed),
            Route("/web/revoke", self._revoke, methods=["POST"]),
            Route("/web/me", self._me),
            Route("/web/live", self._stream),
            Route("/web/plan", self._plan),
            Route("/web/details/{key:path}", self._detail),
        )

    def needs(self, scope: Scope) -> Level | None:
        """Return the rights that one of the page's own resources needs; None for other resources."""
        path = scope["path"]
        return Level.NOTHING if path.startswith("/static/") else _NEEDS.get(path)

    def caller(self, scope: Scope, connection: ClientConnection) -> Caller | ProblemError | None:
        """Return the caller if a browser asks, or the refusal; None if another client asks."""
        said = headers.decoded(scope["headers"])
        host, is_tcp = said.get("host", ""), connection.peer.uid < 0
        if not headers.is_loopback(host) and (is_tcp or headers.may_be_rebound(host)):
            words = "the Host header must name this machine: use http://localhost or 127.0.0.1"
            return ProblemError(403, "Forbidden", words)
        if not (is_tcp or headers.is_browsers(said)):
            return None
        needed, is_read = self.needs(scope), scope["method"] in ("GET", "HEAD")
        if needed is Level.NOTHING and is_read:
            return Caller(connection.peer, Level.NOTHING)
        if not headers.is_same_origin(said, is_read=is_read):
            return ProblemError(403, "Forbidden", "only the page itself may ask this")
        if needed is Level.NOTHING:
            return Caller(connection.peer, Level.NOTHING)
        cookie, key = headers.cookie_value(said), said.get(headers.KEY_HEADER, "")
        found = self._sessions.find(cookie, key, connection.owner) if cookie and key else None
        if found is None:
            words = (
                "no session: run `giveback web` on the host, and open the address that it prints"
            )
            return ProblemError(401, "Log in", words)
        return Caller(found.peer, self._level(found), found.id)

    async def run(self) -> None:
        """Send changes to the browsers, until cancelled."""
        await self._live.run()

    def end(self) -> None:
        """End the streams."""
        self._live.end()

    # The resources.

    async def _file(self, request: Request) -> Response:
        found = self._assets.get(request.path_params.get("path", "index.html"))
        if found is None:
            raise ProblemError(404, "Not Found", "the page has no such file")
        more = {"etag": found.tag, "cache-control": "no-cache"}
        if found.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=more)
        return Response(found.data, media_type=found.media_type, headers=more)

    async def _token(self, request: Request) -> Response:
        wanted = _checked(TokenBody, await body_of(request))
        caller = _caller(request)
        if caller.session or caller.peer.uid < 0:
            raise ProblemError(403, "Forbidden", "a browser cannot let in another one")
        browser_uid = caller.peer.uid if wanted.browser_uid is None else wanted.browser_uid
        token = self._sessions.new_token(caller.peer, browser_uid, read_only=wanted.read_only)
        address = self._surfaces.web_address if self._surfaces else None
        return json_of(WebToken(token, TOKEN_S, _url(address) if address else ""))

    async def _log_in(self, request: Request) -> Response:
        said = _checked(LoginBody, await body_of(request))
        owner = request.scope["state"]["connection"].owner
        found = self._sessions.log_in(said.token, owner, request.headers.get("user-agent", ""))
        if found is None:
            words = "the address was used, is too old or another user's: run `giveback web` again"
            raise ProblemError(401, "Log in", words)
        session, cookie, key = found
        await self._save()
        response = json_of(LoggedIn(key))
        response.set_cookie(
            headers.cookie_name(request.headers.get("host", "")), cookie, max_age=int(SESSION_S),
            path="/", httponly=True, samesite="strict",
        )  # fmt: skip
        structlog.get_logger("giveback.web").info("logged in", session=session.id, uid=session.uid)
        return response

    async def _log_out(self, request: Request) -> Response:
        caller = _caller(request)
        response = json_of({"ended": caller.session})
        response.delete_cookie(headers.cookie_name(request.headers.get("host", "")))
        await self._end(caller.session)
        return response

    async def _listed(self, request: Request) -> Response:
        own = _caller(request)
        return json_of(WebSessions(tuple(self._shown(one) for one in self._seen_by(own))))

    async def _revoke(self, request: Request) -> Response:
        said = _checked(RevokeBody, await body_of(request))
        if said.id not in {one.id for one in self._seen_by(_caller(request))}:
            raise ProblemError(
                404, "No such session", "`giveback web --sessions` lists the sessions"
            )
        await self._end(said.id)
        return json_of({"ended": said.id})

    async def _me(self, request: Request) -> Response:
        caller = _caller(request)
        user = await asyncio.to_thread(self._owners, caller.peer.uid)
        return json_of(
            WebMe(user, caller.level is Level.WRITE, self._acts, self._has_history, __version__)
        )

    async def _stream(self, request: Request) -> Response:
        del request
        return StreamingResponse(
            paced(self._live.events()),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    async def _plan(self, request: Request) -> Response:
        """Plan a reclaim. It asks no guest for memory, so readers may use it."""
        wanted = _checked(PlanQuery, dict(request.query_params))
        if self._plans.locked():
            raise ProblemError(503, "Busy", "too many plans are being made; try again soon")
        async with self._plans:
            plan = await self._manager.reclaim(wanted.goal_bytes, WITHIN_S, (), dry_run=True)
        return json_of(reclaimed(plan))

    async def _detail(self, request: Request) -> Response:
        """Return the results of `explain` and `doctor` for one VM."""
        vm = vm_called(self._manager.status(), request.path_params["key"])
        place = self._surfaces.socket_path if self._surfaces else ""
        return json_of(await self._details.of(vm, place))

    # Sessions.

    def _level(self, session: Session) -> Level:
        rules = self._surfaces.access if self._surfaces else None
        level = Level.NOTHING if rules is None else rules.level(session.peer)
        return min(level, Level.READ) if session.read_only or not self._acts else level

    def _seen_by(self, caller: Caller) -> list[Session]:
        """Return the sessions that the caller may see: all for root, their own for others."""
        listed = self._sessions.listed()
        return [one for one in listed if caller.peer.uid in (0, one.uid)]

    def _shown(self, session: Session) -> WebSession:
        return WebSession(
            session.id, session.uid, session.browser_uid, session.read_only, session.made_wall_s,
            session.agent,
        )  # fmt: skip

    async def _end(self, number: str) -> None:
        self._sessions.revoke(number)
        await self._save()
        if self._surfaces is not None:
            # Later than this answer, which may be on one of those connections.
            asyncio.get_running_loop().call_later(0.1, self._surfaces.end_session, number)

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self._sessions.save)
        except OSError as error:
            log = structlog.get_logger("giveback.web")
            log.warning("sessions end with the daemon", why=error.strerror)


def _caller(request: Request) -> Caller:
    found: Caller = request.scope["state"]["connection"].caller
    return found


def _url(address: tuple[str, int]) -> str:
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _checked(kind: type[Any], said: object) -> Any:  # noqa: ANN401
    """Return a body or a query as its type. Raises InputError, which names each error."""
    try:
        return _ADAPTERS[kind].validate_python(said)
    except ValidationError as error:
        lines = [errors.line_of(one, kind, "key") for one in error.errors(include_url=False)[:10]]
        raise InputError("; ".join(lines)) from error
