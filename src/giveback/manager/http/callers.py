"""Who asks, and what that one may do: what the server and the web page say to each other. No behaviour."""

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
    """Who asks, and what that one may do. `session` is a browser's; "" for all others."""

    peer: ApiPeer
    level: Level
    session: str = ""


class ClientConnection(Protocol):
    """A client's connection, as far as who asks depends on it."""

    peer: ApiPeer
    """Who connected to the unix socket; not known for TCP."""
    owner: int | None
    """The user whose connection it is, by the kernel: -1 where it is nobody's, None where it cannot tell."""


class Surfaces(Protocol):
    """The surfaces that are up, as far as the page has to do with them."""

    access: ApiAccess
    web_address: tuple[str, int] | None
    socket_path: str

    def end_session(self, number: str) -> None:
        """Close all connections of a session that was revoked."""
        ...


class Pages(Protocol):
    """What is served to browsers, and how they are told apart."""

    headers: tuple[tuple[bytes, bytes], ...]
    """Sent with every answer."""

    def routes(self, api: Api, surfaces: Surfaces) -> Sequence[Route]:
        """Return the page's own resources."""
        ...

    def caller(self, scope: Scope, connection: ClientConnection) -> Caller | ProblemError | None:
        """Return whose browser asks, or the refusal; None where no browser does."""
        ...

    def needs(self, scope: Scope) -> Level | None:
        """Return what one of the page's own resources needs; None for all others."""
        ...

    async def run(self) -> None:
        """Do what is done all the time, until cancelled."""
        ...

    def end(self) -> None:
        """End the streams, so that the server can end."""
        ...
