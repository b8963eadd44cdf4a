"""What a guest says, understood and bounded. Pure: a line of bytes in, an event or None out.

A guest is hostile to the manager: nothing of a line is believed but its form. What it claims of
itself (a name, another's memory) is not read at all: who speaks is known by the channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from giveback.guest.query import parse_object
from giveback.text import shown

LINE_LIMIT_BYTES = 32 << 10
"""As docs/protocol.md has it: the agent writes no longer line."""
_TEXT_LIMIT = 160
_RETRY_LIMIT_S = 60.0
_ID_LIMIT = 10**18


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent has opened its port: what it was told before is forgotten."""

    agent: str


@dataclass(frozen=True, slots=True)
class Step:
    """What the agent's service does, in its own words."""

    text: str


@dataclass(frozen=True, slots=True)
class Memory:
    """An answer to `ask: memory`; `said` is for `giveback.guest.query.from_agent` to read, not to keep.

    As objects a line may take thirty times its bytes: `line` is what is kept.
    """

    id: int
    said: dict[str, object]
    line: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """An urgency was taken for so many seconds."""

    id: int
    urgency: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The agent does not answer what was asked; `retry_s` where asking again helps."""

    id: int
    text: str
    retry_s: float | None


Event = Hello | Step | Memory | Taken | Refused


def understand(line: bytes) -> Event | None:
    """The event of a line, or None for anything that is none that there is."""
    if len(line) > LINE_LIMIT_BYTES:
        return None
    said = parse_object(line)
    event = said.get("event")
    if event == "hello":
        return Hello(_text(said, "agent"))
    if event == "step":
        return Step(_text(said, "text") or _text(said, "step"))
    number = _id(said)
    if number is None:
        return None
    if event == "memory":
        return Memory(number, said, line)
    if event == "error":
        return Refused(number, _text(said, "text"), _seconds(said, "retry_s", _RETRY_LIMIT_S))
    if event == "urgency":
        urgency, lease_s = said.get("urgency"), _seconds(said, "lease_s", 86_400.0)
        if isinstance(urgency, int) and not isinstance(urgency, bool) and lease_s is not None:
            return Taken(number, urgency, lease_s)
    return None


def _id(said: dict[str, object]) -> int | None:
    number = said.get("id")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _ID_LIMIT:
        return None
    return number


def _text(said: dict[str, object], key: str) -> str:
    value = said.get(key)
    return shown(value, _TEXT_LIMIT) if isinstance(value, str) else ""


def _seconds(said: dict[str, object], key: str, most_s: float) -> float | None:
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # An integer of JSON may be too large for a float: it is compared before it is made one.
    return float(value) if 0 <= value <= most_s and math.isfinite(value) else None
