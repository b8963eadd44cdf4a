"""An answer to `ask: pages` while it comes over a lasting connection: one report, then part after part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from giveback.guest import protocol

if TYPE_CHECKING:
    from giveback.guest.protocol import AskRefused, MemoryReport, Pages, Taken

TIMEOUT_S = 150.0
"""What the agent gives itself for them, and some more."""
PAGES_LIMIT_CHARS = 16 << 20
"""The agent sends no more. Source: giveback_agent/host_link/answers.py."""
_BYTES_LIMIT = PAGES_LIMIT_CHARS + (1 << 20)


class PageAnswer:
    """What has come so far; `wait` returns all of it. It lifts the connection's bounds by what it may take.

    Who waited for it may leave: what is still to come is then expected all the same, and passed over.
    """

    __slots__ = (
        "_bytes_left", "_chars", "_count", "_lines_left", "_memory", "_parts", "_whole", "asked_at_s",
        "is_over", "number",
    )  # fmt: skip

    def __init__(self, number: int, now_s: float) -> None:
        self.number = number
        self.asked_at_s = now_s
        self.is_over = False
        """Whether no more of it is to come."""
        self._count = 0
        self._whole: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._memory: dict[str, object] | None = None
        self._parts: list[str] = []
        self._chars = 0
        self._bytes_left = _BYTES_LIMIT
        self._lines_left = protocol.PARTS_LIMIT

    def allows_bytes(self, count: int) -> bool:
        """Whether so many may come beyond the connection's bounds; they are then taken off."""
        self._bytes_left -= count
        return self._bytes_left >= 0

    def allows_line(self) -> bool:
        """Whether one more line may come beyond the connection's bounds; it is then taken off."""
        self._lines_left -= 1
        return self._lines_left >= 0

    def take(self, event: MemoryReport | Pages | AskRefused | Taken) -> bool:
        """Take an event with this answer's number; False where it is not the next one."""
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
            self.fail("what the agent says of its pages is not whole, or too long")
            return False
        self._count += 1
        if not self._whole.done():
            self._parts.append(event.data)
        if event.of == self._count:
            self._end({**self._memory, "pages": "".join(self._parts)})
        return True

    def fail(self, why: str) -> None:
        """End it: no more will come."""
        self._end({"error": why, "again_s": None})

    def _end(self, said: dict[str, object]) -> None:
        self.is_over = True
        self._parts = []
        if not self._whole.done():
            self._whole.set_result(said)

    async def wait(self, timeout_s: float = TIMEOUT_S) -> dict[str, object]:
        """Return the report with `pages`, or why there is none as `error` and `again_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._whole)
        except TimeoutError:
            return {"error": f"no pages from the guest in {timeout_s:g} s", "again_s": None}
        finally:
            self._whole.cancel()
            self._parts = []
