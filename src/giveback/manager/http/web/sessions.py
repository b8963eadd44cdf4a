"""The page's sessions: a one-time token becomes a session, which survives a restart of the daemon.

A session has two secrets: a cookie that no script can read, and a key that the page sends to this address
only. Browsers send a cookie to every port of a host, so another user's server on this machine could get the
cookie alone. The file has hashes only. Each request has the present rights of the user who asked for the
token.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from giveback.manager.settings.access import ApiPeer
from giveback_kernel.errors import KernelFileError
from giveback_kernel.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN_S = 120.0
SESSION_S = 7 * 86400.0
TOKENS_MOST, TOKENS_OF_ONE_MOST = 256, 32
SESSIONS_MOST, SESSIONS_OF_ONE_MOST = 256, 64
FILE_NAME = "web-sessions.json"
_AGENT_LIMIT = 200
_FILE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that has logged in, without its secrets."""

    id: str
    cookie_hash: str
    key_hash: str
    uid: int
    gids: tuple[int, ...]
    """The groups of the user who asked for the token; the session has that user's rights."""
    browser_uid: int
    """The user of this host whose connections may use it."""
    read_only: bool
    made_wall_s: float
    agent: str
    """The browser's User-Agent, shortened."""

    @property
    def peer(self) -> ApiPeer:
        """The user whose rights the session has."""
        return ApiPeer(-1, self.uid, frozenset(self.gids))


@dataclass(frozen=True, slots=True)
class _Token:
    peer: ApiPeer
    browser_uid: int
    read_only: bool
    until_s: float


class Sessions:
    """The tokens and sessions of one daemon. `path` None keeps them in memory only."""

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._now_s, self._wall_s = clock, wall_clock
        self._tokens: dict[str, _Token] = {}
        self._sessions = {one.cookie_hash: one for one in _read(path)} if path else {}

    def new_token(self, peer: ApiPeer, browser_uid: int, *, read_only: bool) -> str:
        """Return a token that logs one browser of this user in, once, within TOKEN_S.

        If a user has too many, the oldest are dropped.
        """
        now_s = self._now_s()
        self._tokens = {t: one for t, one in self._tokens.items() if one.until_s > now_s}
        _drop_oldest(self._tokens, TOKENS_MOST - 1)
        own = {t: one for t, one in self._tokens.items() if one.peer.uid == peer.uid}
        for token in list(own)[: max(0, len(own) - TOKENS_OF_ONE_MOST + 1)]:
            del self._tokens[token]
        token = secrets.token_urlsafe(32)
        self._tokens[_hashed(token)] = _Token(peer, browser_uid, read_only, now_s + TOKEN_S)
        return token

    def log_in(self, token: str, owner: int | None, agent: str) -> tuple[Session, str, str] | None:
        """Return the session of a token, its cookie and its key; None if the token is not valid.

        `owner` is the connection's user; None if the kernel cannot tell.
        """
        found = self._tokens.get(_hashed(token))
        if (
            found is None
            or found.until_s <= self._now_s()
            or owner not in (None, found.browser_uid)
        ):
            return None
        del self._tokens[_hashed(token)]
        cookie, key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        made = Session(
            id=secrets.token_hex(4),
            cookie_hash=_hashed(cookie),
            key_hash=_hashed(key),
            uid=found.peer.uid,
            gids=tuple(sorted(found.peer.gids)),
            browser_uid=found.browser_uid,
            read_only=found.read_only,
            made_wall_s=self._wall_s(),
            agent=agent[:_AGENT_LIMIT],
        )
        own = [one for one in self.listed() if one.uid == made.uid]
        for one in own[: max(0, len(own) - SESSIONS_OF_ONE_MOST + 1)]:
            self.revoke(one.id)
        _drop_oldest(self._sessions, SESSIONS_MOST - 1)
        self._sessions[made.cookie_hash] = made
        return made, cookie, key

    def find(self, cookie: str, key: str, owner: int | None) -> Session | None:
        """Return the session of these two secrets; None if it has ended or is another user's."""
        found = self._sessions.get(_hashed(cookie))
        if found is None or not secrets.compare_digest(found.key_hash, _hashed(key)):
            return None
        if not self._holds(found):
            del self._sessions[found.cookie_hash]
            return None
        return found if owner in (None, found.browser_uid) else None

    def listed(self) -> tuple[Session, ...]:
        """Return the valid sessions, oldest first."""
        return tuple(one for one in self._sessions.values() if self._holds(one))

    def revoke(self, number: str) -> bool:
        """End a session; return whether there was one with this id."""
        found = [one.cookie_hash for one in self._sessions.values() if one.id == number]
        for one in found:
            del self._sessions[one]
        return bool(found)

    def save(self) -> None:
        """Write all sessions to the file, atomically. Raises OSError."""
        if self._path is None:
            return
        data = json.dumps([asdict(one) for one in self.listed()]).encode()
        beside = self._path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            beside.replace(self._path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def _holds(self, session: Session) -> bool:
        # If the clock was set back, a session seems younger, but at most by its lifetime.
        return abs(self._wall_s() - session.made_wall_s) < SESSION_S


_ADAPTER = TypeAdapter(tuple[Session, ...])


def _read(path: Path) -> tuple[Session, ...]:
    """Return the sessions in the file; none if it is missing, damaged or not this user's own."""
    try:
        with os.fdopen(open_regular(str(path)), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return ()
            found: tuple[Session, ...] = _ADAPTER.validate_json(file.read(_FILE_LIMIT_BYTES))
    except (OSError, KernelFileError, ValidationError):
        return ()
    return found[-SESSIONS_MOST:]


def _drop_oldest(
    kept: dict[str, object] | dict[str, _Token] | dict[str, Session], most: int
) -> None:
    for name in list(kept)[: max(0, len(kept) - most)]:
        del kept[name]


def _hashed(secret: str) -> str:
    # The secrets are 256 random bits, so a salt or a slow hash would add nothing.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
