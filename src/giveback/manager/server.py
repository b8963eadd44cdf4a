"""Signatures first; the body follows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from giveback.manager.peers import Access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from giveback.manager.model import Manager

SOCKET_PATH = "/run/giveback-daemon/api.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the surfaces are, and who may use them.

    `access` is made of words in settings by `giveback.manager.peers.access(writers, readers)`.
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
    del manager
    yield Serving(endpoint.access)
