"""Sizes in bytes and spans of time, as people, WSL and QEMU write them. Pure.

A parser returns None for text that it does not accept. `SIZE_HINT` and `SPAN_HINT` describe what it
accepts; the caller names the setting. The agent's service imports this module, so it does not use
`re`.
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE_HINT = "write it like 512M, 4G or 1.5T"
SPAN_HINT = "write it like 90s, 15m, 2h or 7d"

_NUMBER_LIMIT_CHARS = 40
_SHIFTS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_PEOPLES_SHIFTS = {
    f"{unit}{tail}": shift
    for unit, shift in _SHIFTS.items()
    for tail in (("", "b", "ib") if shift else ("",))
}
_QEMUS_SHIFTS = {**_SHIFTS, "p": 50, "e": 60}
_MILLISECONDS = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
}

_SPAN_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_SPAN_LIMIT_S = 3.2e13
_ROUND_FROM = 10

WSL_SIZE_MAX_BYTES = (1 << 64) - 1
WSL_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "K": 1 << 10,
    "KB": 1 << 10,
    "M": 1 << 20,
    "MB": 1 << 20,
    "G": 1 << 30,
    "GB": 1 << 30,
    "T": 1 << 40,
    "TB": 1 << 40,
}
_WSL_DIGITS_LIMIT = 80


def size(value_bytes: int) -> str:
    """Return bytes in a readable unit: `1.9 GiB`, `213 MiB`, `64 KiB`."""
    sign = "-" if value_bytes < 0 else ""
    value = abs(value_bytes)
    if value >= 10 * GIB:
        return f"{sign}{value / GIB:.0f} GiB"
    if value >= GIB:
        return f"{sign}{value / GIB:.1f} GiB"
    if value >= MIB:
        return f"{sign}{value / MIB:.0f} MiB"
    return f"{sign}{value / KIB:.0f} KiB"


def parse_size(text: str) -> int | None:
    """Parse `512M`, `2G`, `1.5 GiB` or `4096` into bytes, in any case; units are powers of 1024."""
    number, unit = _split(text)
    shift = _PEOPLES_SHIFTS.get(unit)
    return None if shift is None else _scaled(number, 1 << shift)


def parse_qemu_size(text: str, default_unit: str = "b") -> int | None:
    """Parse `2G`, `512`, `+512`, `1.5g` or `0x1000` into bytes; `default_unit` is that of a bare number.

    Source: qemu_strtosz() in QEMU's util/cutils.c; system/vl.c gives what ends in a decimal digit the unit.
    """
    word = text.strip().lower()
    word = word[1:] if word[:1] == "+" and word[1:2].isdigit() else word
    if word.startswith("0x"):
        digits = word[2:].rstrip("kmgtp")
        unit = word[2 + len(digits) :] or (default_unit if digits[-1:].isdecimal() else "b")
        shift = _QEMUS_SHIFTS.get(unit)
        if shift is None or not digits or set(digits) - set("0123456789abcdef"):
            return None
        return int(digits, 16) << shift
    unit = word[-1:] if word[-1:].isalpha() else ""
    shift = _QEMUS_SHIFTS.get(unit or default_unit)
    return None if shift is None else _scaled(word[: len(word) - len(unit)], 1 << shift)


def parse_wsl_size(text: str) -> int | None:
    """Parse a size of `.wslconfig` into bytes: digits, then B, K, KB, M, MB, G, GB, T, TB or nothing.

    As in WSL: upper case only, no space before the unit, no fraction, leading spaces allowed, and
    zero is written with exactly one digit (`0`, `0GB`). A size above 64 bits is refused, where WSL
    wraps it. Source: `ParseMemorySize` in microsoft/WSL src/shared/inc/stringshared.h.
    """
    word = text.lstrip(" \t\n\v\f\r")
    if word.startswith("+"):
        word = word[1:]
    digits = word.rstrip("BKMGT")
    factor = WSL_SIZE_UNITS.get(word[len(digits) :])
    if factor is None or len(digits) > _WSL_DIGITS_LIMIT or not _is_decimal(digits):
        return None
    if int(digits) == 0 and not (digits == "0" and text.startswith("0")):
        return None
    size_bytes = int(digits) * factor
    return size_bytes if size_bytes <= WSL_SIZE_MAX_BYTES else None


def format_wsl_size(size_bytes: int) -> str:
    """Return a size as `parse_wsl_size` reads it, in the largest unit that is exact."""
    for unit in ("TB", "GB", "MB", "KB"):
        if size_bytes and size_bytes % WSL_SIZE_UNITS[unit] == 0:
            return f"{size_bytes // WSL_SIZE_UNITS[unit]}{unit}"
    return str(size_bytes)


def parse_span(text: str) -> float | None:
    """Parse `90s`, `1.5h`, `250 ms` or `7d` into seconds, in any case; a bare number is seconds."""
    number, unit = _split(text)
    milliseconds, fraction = _MILLISECONDS.get(unit or "s"), _fraction(number)
    if milliseconds is None or fraction is None:
        return None
    return fraction[0] * milliseconds / (fraction[1] * 1000)


def format_span(seconds: float) -> str:
    """Return a span as `parse_span` reads it, in the largest unit that is exact to 1 ms."""
    milliseconds = round(seconds * 1000)
    for unit in ("d", "h", "min", "s"):
        if milliseconds and milliseconds % _MILLISECONDS[unit] == 0:
            return f"{milliseconds // _MILLISECONDS[unit]}{unit}"
    return f"{milliseconds}ms"


def span(seconds: float) -> str:
    """Return a span of time for people: `3 d 4 h`, `27 min`, `2 min 5 s`, `12 s`, `0.4 s`.

    What does not matter in a span of that length is cut off; a negative one is 0, and one beyond a
    million years, or not a number, `?`.
    """
    if not seconds < _SPAN_LIMIT_S:
        return "?"
    whole, tenths = max(0, int(seconds)), round(seconds, 1)
    if 0 < tenths < 10 and tenths % 1:
        return f"{tenths:.1f} s"
    for unit_s, unit, small_s, small in _SPAN_UNITS:
        if whole >= unit_s:
            rest = whole % unit_s // small_s if whole < _ROUND_FROM * unit_s else 0
            return f"{whole // unit_s} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def _split(text: str) -> tuple[str, str]:
    """Split `1.5 GiB` into the number and the unit in lower case, dropping one space between them."""
    word = text.strip()
    number = word.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = word[len(number) :].lower()
    return (number[:-1] if unit and number.endswith(" ") else number), unit


def _scaled(number: str, factor: int) -> int | None:
    fraction = _fraction(number)
    return None if fraction is None else fraction[0] * factor // fraction[1]


def _fraction(number: str) -> tuple[int, int] | None:
    """Parse `12.5` as (125, 10), numerator and denominator, so that it is exact in any unit."""
    whole, point, decimals = number.partition(".")
    if len(number) > _NUMBER_LIMIT_CHARS or not _is_decimal(whole):
        return None
    if point and not _is_decimal(decimals):
        return None
    return int(whole + decimals), int("1" + "0" * len(decimals))


def _is_decimal(digits: str) -> bool:
    return digits.isascii() and digits.isdigit()
