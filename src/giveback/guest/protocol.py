"""The host's end of the agent's protocol: build requests, parse events. docs/protocol.md lists them.

Pure: bytes in, records out. A guest may be hostile to its host: a line is bounded, and only its form is
trusted. A guest's claims about its identity are not read: the channel identifies the guest.
The one-shot query, the daemon's session and the lab all parse a guest's lines by this module.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from giveback.accounting import cgroups
from giveback.accounting.usage import checked, from_kernel_files
from giveback.vmm.clients import answers
from giveback_agent.host_link import json_lines
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.accounting.usage import GuestSnapshot, GuestSource

AGENT_VSOCK_PORT = 26466
LINE_LIMIT_BYTES = json_lines.LINE_LIMIT_BYTES
"""The agent never writes a longer line."""
PARTS_LIMIT = 4096
"""Parts of an answer to `ask: pages`."""
RETRY_LIMIT_S = 3_600.0
"""The longest wait that an agent may name."""
LEASE_LIMIT_S = 86_400.0
_TEXT_LIMIT = 160
_ERROR_LIMIT = 400
_FILE_LIMIT_CHARS = 64 << 10
_GREETING_LIMIT_BYTES = 64
_ID_LIMIT = 10**18
_PAGE_SIZES = (4096, 16384, 65536)

GREETING = b"CONNECT %d\n" % AGENT_VSOCK_PORT
"""First line sent to the vsock socket of Cloud Hypervisor and Firecracker. Source: docs/vsock.md of both."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent has opened its port; it no longer knows an urgency that was sent before."""

    agent: str


@dataclass(frozen=True, slots=True)
class StepEvent:
    """A step of the agent's service: its text, and the step's name if the agent sent one."""

    text: str
    step: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """An answer to `ask: memory`. Pass `said` to `from_agent`; to keep the report, keep `line`.

    Parsed objects may need thirty times the bytes of the line.
    """

    id: int
    said: dict[str, object]
    line: bytes


@dataclass(frozen=True, slots=True)
class Pages:
    """Part `part` (from 0) of `of` parts of an answer to `ask: pages`; docs/ledger.md has its form."""

    id: int
    part: int
    of: int
    data: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The agent has accepted an urgency for `lease_s` seconds."""

    id: int
    urgency: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class AskRefused:
    """The agent refuses a request; `retry_s` is when asking again helps, or None."""

    id: int
    text: str
    retry_s: float | None


Reply = MemoryReport | Pages | Taken | AskRefused
Event = Hello | StepEvent | Reply


def new_id() -> int:
    """Return a random number for a request, which an earlier client has not used.

    The agent reads up to 18 digits; 56 bits have 17.
    """
    return int.from_bytes(os.urandom(7), "big")


def ask(what: str, number: int, by_cgroup: bool = False) -> bytes:
    """Return the request for `memory` or `pages`; its answer has the same number.

    `by_cgroup` asks also for memory by service and container; an older agent ignores it.
    """
    more: dict[str, object] = {"cgroups": True} if by_cgroup else {}
    return _request({"id": number, "ask": what, **more})


class Goal(NamedTuple):
    """The bytes that are still wanted, and the number of the ask that they belong to."""

    wanted_bytes: int
    number: int


def urgency(
    level: int, lease_s: float, number: int, goal: Goal | None = None, by: str = ""
) -> bytes:
    """Return the message that sets the urgency (0 to 3) for `lease_s` seconds.

    `goal` limits it: an agent that knows the key takes no more cache than that. The same goal sent again
    adds nothing to what it takes. `by` names the origin of the urgency, as the guest's `status` shows it.
    """
    message: dict[str, object] = {
        "id": number,
        "urgency": level,
        "lease_s": round(float(lease_s), 1),
    }
    if goal is not None:
        message["goal_bytes"], message["goal_number"] = goal
    if by:
        message["by"] = by
    return _request(message)


def _request(message: dict[str, object]) -> bytes:
    # The empty line ends a line that an earlier client may have left unfinished.
    return b"\n" + json_lines.line_of(message)


def is_greeted(line: bytes) -> bool:
    """Tell whether a vsock socket's answer to GREETING confirms a listener in the guest."""
    return len(line) <= _GREETING_LIMIT_BYTES and line.startswith(b"OK ")


class LineSplitter:
    """A splitter of received bytes into lines; it keeps at most `limit_bytes` of an unfinished line."""

    __slots__ = ("_limit_bytes", "_partial")

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes] | None:
        """Return the lines completed by `data`, without newlines; None if a line is too long."""
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) > self._limit_bytes:
            self._partial = b""
            return None
        if any(len(line) > self._limit_bytes for line in lines):
            return None
        return lines


def parse_object(line: bytes | str) -> dict[str, object]:
    """Parse a JSON object; return {} for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def parse(line: bytes) -> Event | None:
    """Return the event of a line; None if it is too long, nested, or of an unknown form.

    A message is flat: each value is a scalar or a list of scalars.
    """
    if len(line) > LINE_LIMIT_BYTES:
        return None
    said = parse_object(line)
    if not all(_is_flat(value) for value in said.values()):
        return None
    event = said.get("event")
    if event == "hello":
        return Hello(_text(said, "agent") or "")
    if event == "step":
        return _step(said)
    number = _whole(said, "id", _ID_LIMIT)
    return None if number is None else _reply(event, number, said, line)


def _is_flat(value: object) -> bool:
    if isinstance(value, list):
        return not any(isinstance(one, (dict, list)) for one in value)
    return not isinstance(value, dict)


def _step(said: dict[str, object]) -> StepEvent | None:
    step, text = _text(said, "step"), _text(said, "text")
    # The agent sends these keys as text only: any other type means that the line is not the agent's.
    if (step is None and "step" in said) or (text is None and "text" in said):
        return None
    return StepEvent(text or step or "", step)


def _reply(event: object, number: int, said: dict[str, object], line: bytes) -> Reply | None:
    if event == "memory":
        return MemoryReport(number, said, line)
    if event == "pages":
        part, of = _whole(said, "part", PARTS_LIMIT), _whole(said, "of", PARTS_LIMIT + 1)
        data = said.get("data")
        if part is not None and of is not None and part < of and isinstance(data, str):
            return Pages(number, part, of, data)
    elif event == "error":
        text = _text(said, "text", _ERROR_LIMIT) or ""
        return AskRefused(number, text, _number(said, "retry_s", RETRY_LIMIT_S))
    elif event == "urgency":
        level, lease_s = said.get("urgency"), _number(said, "lease_s", LEASE_LIMIT_S)
        if isinstance(level, int) and not isinstance(level, bool) and lease_s is not None:
            return Taken(number, level, lease_s)
    return None


def _whole(said: dict[str, object], key: str, limit: int) -> int | None:
    """Return the key's whole number if it is at least 0 and below `limit`, else None."""
    number = said.get(key)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < limit:
        return None
    return number


def _text(said: dict[str, object], key: str, limit: int = _TEXT_LIMIT) -> str | None:
    """Return the key's text, safe to print; None if it is absent or not text."""
    value = said.get(key)
    return escape_for_terminal(value, limit) if isinstance(value, str) else None


def _number(said: dict[str, object], key: str, most: float) -> float | None:
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # A JSON integer may be too large for a float: compare before converting.
    return float(value) if 0 <= value <= most and math.isfinite(value) else None


def has_memory(said: dict[str, object]) -> bool:
    """Tell whether a daemon's answer about a guest contains the agent's memory report."""
    return "meminfo" in said


def from_agent(said: dict[str, object], source: GuestSource, age_s: float = 0.0) -> GuestSnapshot:
    """Parse a `memory` event into a snapshot: it has kernel files as `giveback-agent picture` prints them."""
    order = said.get("report_order")
    reporting = said.get("reporting")
    page = answers.size(said, "page_bytes")
    guest = from_kernel_files(
        answers.text(said, "meminfo", _FILE_LIMIT_CHARS).encode("utf-8", "replace"),
        answers.text(said, "buddyinfo", _FILE_LIMIT_CHARS).encode("utf-8", "replace"),
        source,
        age_s=age_s,
        report_order=order if isinstance(order, int) and not isinstance(order, bool) else None,
        reporting=reporting if isinstance(reporting, bool) else None,
        page_bytes=page if page in _PAGE_SIZES else 4096,
        pcp_bytes=answers.size(said, "pcp_bytes"),
        compressed_swap_bytes=answers.size(said, "compressed_swap_bytes"),
    )
    if guest.total_bytes is None:
        return guest
    # Older agents do not send these.
    guest = checked(
        replace(
            guest,
            stall_percent=_number(said, "stall_percent", 100.0),
            would_take_bytes=answers.size(said, "would_take_bytes"),
            cache_floor_bytes=answers.size(said, "cache_floor_bytes"),
            learned_floor_bytes=answers.size(said, "learned_floor_bytes"),
            cache_in_parts=said.get("cache_in_parts") is not False,
        )
    )
    if "cgroups" not in said:
        return guest
    return replace(guest, cgroups=cgroups.parse(said["cgroups"], guest.total_bytes or 0))
