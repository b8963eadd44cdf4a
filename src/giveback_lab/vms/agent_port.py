"""The host's end of the agent's port: the steps that the agent reports. Its input is untrusted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from giveback.guest import protocol
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXT_LIMIT = 120


def parse_event(line: bytes) -> protocol.StepEvent | None:
    """Parse a line of the agent; return its step, or None for any other line. Input is bounded."""
    event = protocol.parse(line)
    if not isinstance(event, protocol.StepEvent) or event.step is None:
        return None
    return protocol.StepEvent(
        escape_for_terminal(event.text, TEXT_LIMIT), escape_for_terminal(event.step, TEXT_LIMIT)
    )


async def agent_events(socket: Path) -> AsyncIterator[protocol.StepEvent]:
    """Yield the agent's steps as they arrive, until the VM ends."""
    reader, writer = await asyncio.open_unix_connection(
        str(socket), limit=protocol.LINE_LIMIT_BYTES
    )
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                # A line longer than the limit: asyncio has dropped it, and the next line may be
                # valid.
                continue
            if not line:
                return
            event = parse_event(line)
            if event is not None:
                yield event
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
