"""Signatures first; the body follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def set_up(stream: TextIO | None = None, level: str = "info") -> None:
    """Structured logs to `stream` (stderr): JSON lines where it is no terminal.

    Then `structlog.get_logger().bind(vm=key).info("event", bytes=…)`.
    """
