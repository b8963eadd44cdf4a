"""Log each API request that acts, in one line: its user, its body, and its result.

The kernel names the peer (SO_PEERCRED, at the time it connected). A peer cannot fill the log: the log's own
limits bound each value, and a rate for each user bounds the lines. Omitted lines are counted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from giveback.guest.rate_limits import Bucket

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from giveback.manager.settings.access import ApiPeer

LOGGER = "giveback.manager.http.audit"
TEXT_LIMIT_BYTES = 400
LINES_A_SECOND, LINES_BURST = 0.5, 30.0
USERS_MOST = 256
"""The most users whose rate is remembered; the least recent one is forgotten."""


class Audit:
    """Writes the lines, within a rate for each user."""

    def __init__(self) -> None:
        self._users: OrderedDict[int, Bucket] = OrderedDict()
        self._left_out = 0

    def write(self, entry: Entry) -> None:
        """Write a line for the request, or count it if its user has exceeded the rate."""
        now_s = time.monotonic()
        bucket = self._users.pop(entry.peer.uid, None) or Bucket(LINES_A_SECOND, LINES_BURST)
        self._users[entry.peer.uid] = bucket
        if len(self._users) > USERS_MOST:
            self._users.popitem(last=False)
        if not bucket.take(1.0, now_s):
            self._left_out += 1
            return
        more = {"left_out": self._left_out} if self._left_out else {}
        self._left_out = 0
        structlog.get_logger(LOGGER).info("asked", **entry.values(now_s), **more)


class Entry:
    """One request; `receiving` and `sending` wrap its ASGI callables to record it."""

    def __init__(self, scope: Scope, peer: ApiPeer, socket_path: str) -> None:
        self.peer = peer
        self._socket_path = socket_path
        self._asked = f"{scope['method']} {scope['path']}"
        self._began_s = time.monotonic()
        self._body = self._answer = b""
        self._status = 0
        # Tokens, cookies and keys of browsers pass there, which no log is to have.
        self._limit_bytes = 0 if scope["path"].startswith("/web/") else TEXT_LIMIT_BYTES

    def receiving(self, receive: Receive) -> Receive:
        """Return `receive`, which now also records the beginning of the request's body."""

        async def kept() -> Message:
            message = await receive()
            self._body += message.get("body", b"")[: self._limit_bytes - len(self._body)]
            return message

        return kept

    def sending(self, send: Send) -> Send:
        """Return `send`, which now also records the status and the beginning of the answer."""

        async def kept(message: Message) -> None:
            self._status = message.get("status", self._status)
            part = message.get("body", b"")
            self._answer += bytes(part[: self._limit_bytes - len(self._answer)])
            await send(message)

        return kept

    def values(self, now_s: float) -> dict[str, object]:
        """Return the line's values; `status` is 0 if the client disconnected before the answer."""
        return {
            "uid": self.peer.uid,
            "pid": self.peer.pid,
            "socket": self._socket_path,
            "asked": self._asked[:TEXT_LIMIT_BYTES],
            "body": self._body,
            "status": self._status,
            "answer": self._answer,
            "took_s": round(now_s - self._began_s, 3),
        }
