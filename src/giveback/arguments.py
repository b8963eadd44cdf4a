"""Sizes, spans of time and numbers on a command line: within bounds, or an error that names the option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import SIZE_HINT, SPAN_HINT, format_span, parse_size, parse_span, size

if TYPE_CHECKING:
    from typing import TypeVar

    Number = TypeVar("Number", int, float)


def size_of(text: str, option: str, most_bytes: int | None = None) -> int:
    """Return a size in bytes. Raises InputError that names `option` and what is allowed."""
    found = parse_size(text)
    if found is None:
        raise InputError(f"{_given(option, text)}: not a size: {SIZE_HINT}")
    if most_bytes is not None and not 0 < found <= most_bytes:
        raise InputError(f"{_given(option, text)}: must be above 0 and at most {size(most_bytes)}")
    return found


def size_with_unit_of(text: str, option: str, least_bytes: int, most_bytes: int) -> int:
    """Return a size in bytes that was written with its unit: a bare number would be ambiguous.

    Raises InputError that names `option` and what is allowed.
    """
    if text.strip()[-1:].isdigit():
        given = text.strip()[:20]
        raise InputError(
            f"{_given(option, text)}: has no unit: write {given}M, {given}G or the like"
        )
    found = size_of(text, option, most_bytes)
    if found < least_bytes:
        raise InputError(f"{_given(option, text)}: must be at least {size(least_bytes)}")
    return found


def span_of(text: str, option: str, least_s: float, most_s: float) -> float:
    """Return a span in seconds. Raises InputError that names `option` and what is allowed."""
    found = parse_span(text)
    if found is None:
        raise InputError(f"{_given(option, text)}: not a span of time: {SPAN_HINT}")
    if not least_s <= found <= most_s:
        least, most = format_span(least_s), format_span(most_s)
        raise InputError(f"{_given(option, text)}: must be from {least} to {most}")
    return found


def bounded(value: Number, option: str, least: Number, most: Number, unit: str = "") -> Number:
    """Return a number within bounds. Raises InputError that names `option` and the bounds."""
    if not least <= value <= most:
        raise InputError(f"{option} {value:.15g}: must be {least:.15g} to {most:.15g}{unit}")
    return value


def _given(option: str, text: str) -> str:
    return f"{option} {escape_for_terminal(text, 40)!r}"
