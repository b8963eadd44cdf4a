"""Make untrusted text safe to show: text from guests, files, sockets, other processes."""

from __future__ import annotations


def escape_for_terminal(text: str, limit: int = 120, ellipsis: str = "…") -> str:
    """Return text that is safe to print: one line of at most `limit` characters, no escapes.

    Truncated text ends in `ellipsis`, within the limit. Text that is already safe is unchanged.
    Without this a guest whose name contains terminal escapes could repaint the operator's screen.
    """
    cut = text[: limit + 1]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return safe if len(safe) <= limit else safe[: limit - len(ellipsis)] + ellipsis
