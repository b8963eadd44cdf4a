"""Rows of cells as lines of aligned columns, as wide as a terminal shows them."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


UNLIMITED = 1 << 16
"""The width of a pipe: it takes any line."""
_GAP = "  "
FIRST_CELLS = 20
"""A name may be cut to this before a column of numbers goes,"""
_LEAST_FIRST_CELLS = 8
"""and to this where none can go."""


def width_of(text: str) -> int:
    """Return how many terminal cells a printable text takes. Source: Unicode UAX #11."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a printable text that takes at most `width` cells; a shortened one ends in `…`."""
    if width_of(text) <= width:
        return text
    kept, left = [], width - 1
    for character in text:
        left -= _cells_of(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def short(text: str, width: int) -> str:
    """Return a text that is safe to print, cut to `width`: escapes in a name cannot shift a column."""
    return cut(escape_for_terminal(text, width), width)


def size_or_unknown(value_bytes: int | None) -> str:
    """Return a size in a readable unit; `?` for None."""
    return "?" if value_bytes is None else size(value_bytes)


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Return a line for each row; the columns of the numbers in `right` are aligned to the right.

    All rows are of equal length. Raises ValueError if they are not.
    """
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            _padded(cell, width, to_right=column in right)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _padded(cell: str, width: int, *, to_right: bool) -> str:
    space = " " * (width - width_of(cell))
    return space + cell if to_right else cell + space


def fitted(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Container[str],
    width: int,
    least_needed: Sequence[str] = (),
    last_cells: int = UNLIMITED,
) -> list[str]:
    """Return the lines of a table of at most `width` cells, head first.

    Columns are dropped in the order of `least_needed` until the rest fits. The first column may be
    cut to `FIRST_CELLS` and the last one to `last_cells`. If that does not suffice, the lines are
    cut.
    """
    if len(head) == 1:
        return [
            cut(line, width) for line in aligned((head, *rows), {0} if head[0] in right else ())
        ]
    left = list(range(len(head)))
    for name in (None, *least_needed):
        left = [place for place in left if head[place] != name]
        chosen = [[row[place] for place in left] for row in (head, *rows)]
        numbers = {at for at, place in enumerate(left) if head[place] in right}
        last = last_cells if left[-1:] == [len(head) - 1] else width
        least = [[cut(row[0], FIRST_CELLS), *row[1:-1], cut(row[-1], last)] for row in chosen]
        spare = width - _width(aligned(least, numbers))
        if spare >= 0:
            break
    first = max(width_of(row[0]) for row in least)
    kept = max(_LEAST_FIRST_CELLS, first + spare)
    named = [[cut(row[0], kept), *row[1:]] for row in chosen]
    return [cut(line, width) for line in aligned(named, numbers)]


def _width(lines: Sequence[str]) -> int:
    return max(map(width_of, lines))


def wrapped(line: str, width: int) -> list[str]:
    """Return a line as lines of at most `width` cells; continuation lines are indented by 2 more."""
    if width_of(line) <= width:
        return [line]
    bare = line.lstrip(" ")
    indent = " " * (len(line) - len(bare))
    later = indent + _GAP
    if len(later) > width // 2:
        indent = later = ""
    lines, now = [], indent
    for word in bare.split(" "):
        joined = f"{now} {word}" if now.strip() else now + word
        if width_of(joined) <= width:
            now = joined
            continue
        if now.strip():
            lines.append(now)
            now = later
        for character in word:
            if width_of(now + character) > width:
                lines.append(now)
                now = later
            now += character
    return [*lines, now] if now.strip() else lines
