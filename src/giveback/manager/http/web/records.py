"""The answers of the page's resources. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WebToken:
    """A token that logs one browser in, once."""

    token: str
    for_s: float
    address: str
    """The page's address over TCP; "" if the settings have no `web_listen`."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The secret of a session that the page itself keeps; the other one is the cookie."""

    key: str


@dataclass(frozen=True, slots=True)
class WebMe:
    """The user of the page, and what the page can do."""

    user: str
    may_write: bool
    acts: bool
    """False if the daemon only watches."""
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
