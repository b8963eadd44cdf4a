"""Untrusted text made safe to show: from guests, files, sockets, other processes."""

from __future__ import annotations


def escape_for_terminal(text: str, limit: int = 120, ellipsis: str = "…") -> str:
    """Return text that is safe to print: one line of at most `limit` characters, no escapes.

    Text that is cut ends in `ellipsis`, within the limit. Text that was made safe before stays as it
    is. A guest that names itself with terminal escapes could otherwise repaint the operator's screen.
    """
    cut = text[: limit + 1]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return safe if len(safe) <= limit else safe[: limit - len(ellipsis)] + ellipsis
