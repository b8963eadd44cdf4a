"""The host's end of the agent's port: what the agent says it did. Never trusted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LINE_LIMIT_BYTES = 64 << 10
TEXT_LIMIT = 120


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """One step of a pass, in the agent's words; `step` is one of the agent's step names."""

    step: str
    text: str


def parse_event(line: bytes) -> AgentEvent | None:
    """Read one line of the agent's, or None where it is none. Bounded; control characters go."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("event") != "step":
        return None
    step, text = said.get("step"), said.get("text", "")
    if not isinstance(step, str) or not isinstance(text, str):
        return None
    return AgentEvent(clean(step), clean(text))


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """A guest's text for a terminal, a page or a file: bounded, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


async def agent_events(socket: Path) -> AsyncIterator[AgentEvent]:
    """Yield the agent's steps as they come, until the VM ends."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=LINE_LIMIT_BYTES)
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                # Longer than the limit: asyncio has dropped it; the next line may be sound.
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
