"""Both ends of a session with an agent: who owns the session, and the wire that it writes to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback.guest import protocol
    from giveback.guest.session import Ended


class Owner:
    """Owns a session, and keeps what the session reports."""

    def __init__(self) -> None:
        self.events: list[protocol.Event] = []
        self.wrongs: list[str] = []
        self.ends: list[Ended] = []

    def heard(self, event: protocol.Event) -> None:
        self.events.append(event)

    def wrong(self, word: str) -> None:
        self.wrongs.append(word)

    def ended(self, why: Ended) -> None:
        self.ends.append(why)


class Wire(asyncio.Transport):
    """Keeps the bytes that a session sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass
