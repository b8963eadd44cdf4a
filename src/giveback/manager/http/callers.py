"""The interfaces between the server and the web page: callers, their rights, the page. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import Route
    from starlette.types import Scope

    from giveback.manager.http.api import Api, ProblemError
    from giveback.manager.settings.access import ApiAccess, ApiPeer, Level


@dataclass(frozen=True, slots=True)
class Caller:
    """The peer of a request, and its rights. `session` is a browser's session; "" for other clients."""

    peer: ApiPeer
    level: Level
    session: str = ""


class ClientConnection(Protocol):
    """The part of a client's connection that identifies its caller."""

    peer: ApiPeer
    """The peer of the unix socket; unknown for TCP."""
    owner: int | None
    """The connection's user, by the kernel; -1 if it has none, None if the kernel cannot tell."""


class Surfaces(Protocol):
    """The running servers, as far as the page needs them."""

    access: ApiAccess
    web_address: tuple[str, int] | None
    socket_path: str

    def end_session(self, number: str) -> None:
        """Close all connections of a session that was revoked."""
        ...


class Pages(Protocol):
    """The page for browsers, and how it identifies them."""

    headers: tuple[tuple[bytes, bytes], ...]
    """The headers of every answer."""

    def routes(self, api: Api, surfaces: Surfaces) -> Sequence[Route]:
        """Return the page's own resources."""
        ...

    def caller(self, scope: Scope, connection: ClientConnection) -> Caller | ProblemError | None:
        """Return the caller if a browser asks, or the refusal; None if another client asks."""
        ...

    def needs(self, scope: Scope) -> Level | None:
        """Return the rights that one of the page's own resources needs; None for other resources."""
        ...

    async def run(self) -> None:
        """Run the page's periodic work until cancelled."""
        ...

    def end(self) -> None:
        """End the streams, so that the server can stop."""
        ...
