"""Sizes as people write and read them, and as QEMU's command line does. Pure."""

from __future__ import annotations

import argparse
import re

from giveback.errors import InputError

MIB = 1 << 20
GIB = 1 << 30


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


FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PEOPLES = re.compile(
    r"(\d{1,18})(?:\.(\d{1,6}))? ?(?:([KMGT])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE
)
_QEMUS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def parse_size(text: str) -> int | None:
    """`512M`, `2G`, `1.5 GiB`, `4096` in bytes, or None where it is none; powers of 1024."""
    found = _PEOPLES.fullmatch(text.strip())
    if found is None:
        return None
    whole, fraction, unit = found[1], found[2] or "", found[3] or ""
    scale: int = 10 ** len(fraction)
    return int(whole + fraction) * FACTORS[unit.upper()] // scale


def size_of(text: str, setting: str) -> int:
    """A size in bytes. Raises InputError that names `setting`."""
    found = parse_size(text)
    if found is None:
        raise InputError(f"{setting} {text!r}: not a size: write it like 2G or 512M")
    return found


def size_argument(text: str) -> int:
    """For argparse: a size above nothing, in bytes."""
    found = parse_size(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4G or 512M")
    return found


def parse_qemu_size(text: str, default_unit: str = "b") -> int | None:
    """`2G`, `512`, `1.5g`, `0x1000` in bytes, or None where it is none.

    `default_unit` is that of a bare number. Source: qemu_strtosz() in QEMU's util/cutils.c.
    """
    word = text.strip().lower()
    if word.startswith("0x"):
        digits = word[2:]
        return int(digits, 16) if digits and set(digits) <= set("0123456789abcdef") else None
    unit = word[-1:] if word[-1:].isalpha() else ""
    number = word[: len(word) - len(unit)]
    shift = _QEMUS.get(unit or default_unit)
    whole, point, fraction = number.partition(".")
    if shift is None or len(number) > 40 or not whole.isascii() or not whole.isdigit():
        return None
    if point and not (fraction.isascii() and fraction.isdigit()):
        return None
    scale: int = 10 ** len(fraction)
    return (int(whole + fraction) << shift) // scale
