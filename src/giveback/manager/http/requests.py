"""What a client may ask, checked: bad sizes, spans and unknown keys get words that help. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.manager.model import URGENCIES
from giveback.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

WITHIN_S = 30.0
WITHIN_MOST_S = 3600.0
LEASE_S = 60.0
LEASE_MOST_S = 3600.0
VMS_MOST = 1000
SPAN_MOST_S = 366 * 86400
GOAL_MOST_BYTES = 1 << 60
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Reclaim:
    """POST /v1/reclaim."""

    goal_bytes: int
    within_s: float = WITHIN_S
    vms: tuple[str, ...] = ()

    @staticmethod
    def of(said: object) -> Reclaim:
        """Raises InputError for what is none."""
        body = _object(said, {"goal_bytes", "within_s", "vms"})
        goal = body.get("goal_bytes")
        if isinstance(goal, bool) or not isinstance(goal, int) or not 0 < goal <= GOAL_MOST_BYTES:
            raise InputError("goal_bytes: a whole number of bytes above 0, such as 4294967296")
        vms = body.get("vms", [])
        if not isinstance(vms, list) or not all(isinstance(vm, str) for vm in vms):
            raise InputError("vms: a list of names or keys; [] is all")
        if len(vms) > VMS_MOST:
            raise InputError(f"vms: at most {VMS_MOST}; [] is all")
        within_s = _number(body, "within_s", WITHIN_S, WITHIN_MOST_S)
        return Reclaim(goal, within_s, tuple(dict.fromkeys(vms)))


@dataclass(frozen=True, slots=True)
class Urgency:
    """POST /v1/vms/KEY/urgency."""

    urgency: int
    lease_s: float = LEASE_S

    @staticmethod
    def of(said: object) -> Urgency:
        """Raises InputError for what is none."""
        body = _object(said, {"urgency", "lease_s"})
        urgency = body.get("urgency")
        if isinstance(urgency, bool) or not isinstance(urgency, int) or urgency not in URGENCIES:
            raise InputError("urgency: 0, 1, 2 or 3")
        return Urgency(urgency, _number(body, "lease_s", LEASE_S, LEASE_MOST_S))


@dataclass(frozen=True, slots=True)
class Span:
    """GET /v1/history: wall seconds."""

    from_s: int
    to_s: int
    vm: str | None

    @staticmethod
    def of(query: Mapping[str, str], now_s: float) -> Span:
        """`since=2h`, or `from=` and `to=` in Unix seconds. Raises InputError."""
        unknown = sorted(set(query) - {"since", "from", "to", "vm"})
        if unknown:
            raise InputError(f"{shown(unknown[0], 40)}: not known; use since, from, to, vm")
        if "since" in query and "from" in query:
            raise InputError("since, from: one of the two")
        to_s = _second(query, "to", int(now_s) + 1)
        from_s = _second(query, "from", to_s - parse_span(query.get("since", "2h")))
        if not 0 < to_s - from_s <= SPAN_MOST_S:
            raise InputError("from, to: the end after the start, and at most 366 days between")
        return Span(from_s, to_s, query.get("vm") or None)


def parse_span(text: str) -> int:
    """`90s`, `2h`, `7d` in seconds; a bare number is seconds. Raises InputError."""
    word = text.strip().lower()
    digits = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word[len(digits) :] or "s"
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10 and unit in _UNITS):
        raise InputError(f"{shown(text, 40)!r} is no span of time; write 90s, 15m, 2h or 7d")
    span_s = int(digits) * _UNITS[unit]
    if not 0 < span_s <= SPAN_MOST_S:
        raise InputError(f"{shown(text, 40)!r}: from 1 s to 366 d")
    return span_s


def _second(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InputError(f"{name}: Unix time in whole seconds")
    return int(text)


def _object(said: object, known: set[str]) -> dict[str, object]:
    if not isinstance(said, dict):
        raise InputError(f"the body: a JSON object with {', '.join(sorted(known))}")
    unknown = sorted(str(key) for key in said.keys() - known)
    if unknown:
        raise InputError(f"{shown(unknown[0], 40)}: not known; use {', '.join(sorted(known))}")
    return said


def _number(body: Mapping[str, object], name: str, default: float, most: float) -> float:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise InputError(f"{name}: seconds, above 0 and at most {most:g}")
    return float(value)
