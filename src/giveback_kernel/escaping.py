"""Untrusted text made safe to show: from guests, files, sockets, other processes."""

from __future__ import annotations


def escape_for_terminal(text: str, limit: int = 120, ellipsis: str = "…") -> str:
    """Return text that is safe to print: one line, at most `limit` characters of it, no escapes.

    A guest that names itself with terminal escapes could otherwise repaint the operator's screen.
    """
    cut = text[:limit]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return safe if len(text) <= limit else safe + ellipsis
