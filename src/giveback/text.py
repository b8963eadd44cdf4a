"""Text for people: sizes, and foreign text made safe for a terminal."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30


def shown(text: str, limit: int = 120) -> str:
    """Text from a guest, a file name or a socket, safe to print: one line, bounded, no escapes.

    A guest that names itself with terminal escapes could otherwise repaint the operator's screen.
    """
    cut = text[:limit]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return safe if len(text) <= limit else safe + "…"


def size(value_bytes: int) -> str:
    """Bytes in the unit that people read: `1.9 GiB`, `213 MiB`, `64 KiB`."""
    sign = "-" if value_bytes < 0 else ""
    value = abs(value_bytes)
    if value >= 10 * GIB:
        return f"{sign}{value / GIB:.0f} GiB"
    if value >= GIB:
        return f"{sign}{value / GIB:.1f} GiB"
    if value >= MIB:
        return f"{sign}{value / MIB:.0f} MiB"
    return f"{sign}{value / 1024:.0f} KiB"
