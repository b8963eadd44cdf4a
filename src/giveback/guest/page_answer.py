"""Collect the answer to `ask: pages` from a lasting connection: one memory report, then parts in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from giveback.guest import protocol
from giveback_kernel.units import span

if TYPE_CHECKING:
    from giveback.guest.protocol import AskRefused, MemoryReport, Pages, Taken

TIMEOUT_S = 150.0
"""The agent's own time limit for the pages, and some more."""
PAGES_LIMIT_CHARS = 16 << 20
"""The agent never sends more. Source: giveback_agent/host_link/answers.py."""
_BYTES_LIMIT = PAGES_LIMIT_CHARS + (1 << 20)


class PageAnswer:
    """The parts received so far; `wait` returns the whole answer.

    The answer may exceed the connection's rate limits, up to limits of its own. If the waiting task is
    cancelled, the remaining parts are still accepted, and dropped.
    """

    __slots__ = (
        "_bytes_left", "_chars", "_count", "_lines_left", "_memory", "_parts", "_whole", "asked_at_s",
        "is_over", "number",
    )  # fmt: skip

    def __init__(self, number: int, now_s: float) -> None:
        self.number = number
        self.asked_at_s = now_s
        self.is_over = False
        """Whether the answer is complete or has failed."""
        self._count = 0
        self._whole: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._memory: dict[str, object] | None = None
        self._parts: list[str] = []
        self._chars = 0
        self._bytes_left = _BYTES_LIMIT
        self._lines_left = protocol.PARTS_LIMIT

    def allows_bytes(self, count: int) -> bool:
        """Count `count` bytes against this answer's own limit; return False if they exceed it."""
        self._bytes_left -= count
        return self._bytes_left >= 0

    def allows_line(self) -> bool:
        """Count one line against this answer's own limit; return False if it exceeds it."""
        self._lines_left -= 1
        return self._lines_left >= 0

    def take(self, event: MemoryReport | Pages | AskRefused | Taken) -> bool:
        """Take an event that has this answer's number; return False if it is out of order."""
        if isinstance(event, protocol.AskRefused):
            self._end({"error": event.text, "again_s": event.retry_s})
            return True
        if isinstance(event, protocol.MemoryReport):
            is_first, self._memory = self._memory is None, event.said
            return is_first
        if not isinstance(event, protocol.Pages):
            return False
        self._chars += len(event.data)
        if self._memory is None or event.part != self._count or self._chars > PAGES_LIMIT_CHARS:
            self.fail("the agent's answer about its pages is incomplete or too long")
            return False
        self._count += 1
        if not self._whole.done():
            self._parts.append(event.data)
        if event.of == self._count:
            self._end({**self._memory, "pages": "".join(self._parts)})
        return True

    def fail(self, why: str) -> None:
        """End the answer with an error; later parts are not expected."""
        self._end({"error": why, "again_s": None})

    def _end(self, said: dict[str, object]) -> None:
        self.is_over = True
        self._parts = []
        if not self._whole.done():
            self._whole.set_result(said)

    async def wait(self, timeout_s: float = TIMEOUT_S) -> dict[str, object]:
        """Return the memory report with its `pages`; or on failure an object with `error` and `again_s`.

        `again_s` is the number of seconds after which asking again helps, or None.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._whole)
        except TimeoutError:
            return {
                "error": f"no pages from the guest in {span(round(timeout_s))}",
                "again_s": None,
            }
        finally:
            self._whole.cancel()
            self._parts = []
