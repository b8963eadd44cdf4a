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


_SUFFIXES = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def parse_size(text: str, default_unit: str = "b") -> int | None:
    """`2G`, `512`, `1.5g`, `0x1000` in bytes, or None where it is none.

    `default_unit` is that of a bare number. Source: qemu_strtosz() in QEMU's util/cutils.c.
    """
    word = text.strip().lower()
    if word.startswith("0x"):
        digits = word[2:]
        return int(digits, 16) if digits and set(digits) <= set("0123456789abcdef") else None
    unit = word[-1:] if word[-1:].isalpha() else ""
    number = word[: len(word) - len(unit)]
    shift = _SUFFIXES.get(unit or default_unit)
    whole, point, fraction = number.partition(".")
    if shift is None or len(number) > 40 or not whole.isascii() or not whole.isdigit():
        return None
    if point and not (fraction.isascii() and fraction.isdigit()):
        return None
    scale: int = 10 ** len(fraction)
    return (int(whole + fraction) << shift) // scale
