"""Structured logs: JSON lines for a journal or a file, coloured text for a terminal.

Every line has `time`, `level` and `event`; lines about one VM have `vm`. Text from outside (guests, file
names, VMMs) is escaped, and limited in length to one line. Loggers of the standard library, which uvicorn and
qemu.qmp use, are formatted alike.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

TEXT_LIMIT_CHARS = 500
EXCEPTION_LIMIT_CHARS = 8000
ITEMS_LIMIT = 50
_DEPTH_LIMIT = 4
_AUDIT = "giveback.manager.http.audit"
LIBRARY_LINES_A_MINUTE = 10
"""The most lines of one library per minute: a client can make it write a traceback for each request."""
_FIRST = ("time", "level", "event", "vm")
_QUIET = ("asyncio", "uvicorn", "qemu", "httpx2", "httpcore2", "hpack")
"""Libraries of which only errors are logged: their other lines help developers, but not operators."""


def set_up(stream: TextIO | None = None, level: str = "info") -> None:
    """Write structured logs to `stream` (None: stderr); JSON lines if it is not a terminal.

    Then use `structlog.get_logger().bind(vm=key).info("event", bytes=…)`. It may be called again.
    """
    out = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        made_safe,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_ending(out)],
        )
    )
    root = logging.getLogger()
    handler.addFilter(_LibraryLimit())
    root.handlers[:] = [handler]
    set_level(level)
    # A failure to write the log must not end the operation that is logged.
    logging.raiseExceptions = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # The audit of API requests is logged at every level.
    logging.getLogger(_AUDIT).setLevel(logging.INFO)


class _LibraryLimit(logging.Filter):
    """A filter that limits each library to LIBRARY_LINES_A_MINUTE, and giveback's own lines not at all."""

    def __init__(self) -> None:
        super().__init__()
        self._minutes: dict[str, tuple[int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line."""
        library = record.name.partition(".")[0]
        if library not in _QUIET:
            return True
        minute = int(record.created // 60)
        last, count = self._minutes.get(library, (minute, 0))
        count = count + 1 if last == minute else 1
        self._minutes[library] = (minute, count)
        return count <= LIBRARY_LINES_A_MINUTE


def set_level(level: str) -> None:
    """Set the lowest level that is logged from now on."""
    logging.getLogger().setLevel(level.upper())


def _ending(out: TextIO) -> list[Processor]:
    if out.isatty():
        return [structlog.dev.ConsoleRenderer(colors=True, timestamp_key="time")]
    return [_ordered, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _ordered(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Return the event with its fixed keys first and the others sorted by name."""
    del logger, method
    rest = sorted(event.keys() - set(_FIRST))
    return {key: event[key] for key in (*_FIRST, *rest) if key in event}


def made_safe(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape and shorten every value of an event to one line; numbers and booleans stay as they are."""
    del logger, method
    for key, value in list(event.items()):
        if key.startswith("_"):
            continue  # The formatter's own, such as _record.
        if key == "exception" and isinstance(value, str):
            lines = value[-EXCEPTION_LIMIT_CHARS:].splitlines()
            event[key] = "\n".join(escape_for_terminal(line, 1000) for line in lines)
        else:
            event[key] = _safe(value, _DEPTH_LIMIT)
    return event


def _safe(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return (
            value if value.bit_length() <= 64 else escape_for_terminal(hex(value), TEXT_LIMIT_CHARS)
        )
    if isinstance(value, dict) and depth:
        return _safe_items(value, depth - 1)
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [_safe(part, depth - 1) for part in list(value)[:ITEMS_LIMIT]]
    if isinstance(value, bytes | bytearray):
        return escape_for_terminal(bytes(value[: TEXT_LIMIT_CHARS + 1]).decode("utf-8", "backslashreplace"),
                     TEXT_LIMIT_CHARS)  # fmt: skip
    return escape_for_terminal(str(value), TEXT_LIMIT_CHARS)


def _safe_items(value: MutableMapping[object, object], depth: int) -> dict[str, object]:
    items = list(value.items())[:ITEMS_LIMIT]
    return {escape_for_terminal(str(key), 100): _safe(part, depth) for key, part in items}
