"""What the page's resources answer. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WebToken:
    """A token that logs one browser in, once."""

    token: str
    for_s: float
    address: str
    """Where the daemon serves the page over TCP; "" where its settings name no `web_listen`."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The half of a session's secrets that the page itself keeps."""

    key: str


@dataclass(frozen=True, slots=True)
class WebMe:
    """Who has opened the page, and what it can do there."""

    user: str
    may_write: bool
    acts: bool
    """False where the daemon only watches."""
    has_history: bool
    version: str


@dataclass(frozen=True, slots=True)
class WebSession:
    """A browser that has logged in. `uid` is the user whose rights it has."""

    id: str
    uid: int
    browser_uid: int
    read_only: bool
    made_wall_s: float
    agent: str


@dataclass(frozen=True, slots=True)
class WebSessions:
    """The sessions that the caller may end."""

    sessions: tuple[WebSession, ...]
