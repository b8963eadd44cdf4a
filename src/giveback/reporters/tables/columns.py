"""Rows of cells as lines of aligned columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


UNLIMITED = 1 << 16
"""The width of a pipe: it takes any line."""


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Return a line for each row; the columns of the numbers in `right` are aligned to the right.

    All rows are of equal length. Raises ValueError where they are not.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def short(text: str, width: int) -> str:
    """Return a text that is safe to print, cut to `width`: a name of escapes pushes no column out."""
    safe = escape_for_terminal(text, width)
    return safe if len(safe) <= width else f"{safe[: width - 1]}…"


def size_or_unknown(value_bytes: int | None) -> str:
    """Return a size in the unit that people read; `?` for None."""
    return "?" if value_bytes is None else size(value_bytes)


def fitted(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Container[str],
    width: int,
    least_needed: Sequence[str] = (),
) -> list[str]:
    """Return the lines of a table that is no wider than `width`, head first.

    Columns go in the order of `least_needed` until the rest fits; then the last cell of a line is cut.
    """
    left = list(range(len(head)))
    for name in (None, *least_needed):
        left = [place for place in left if head[place] != name]
        chosen = [[row[place] for place in left] for row in (head, *rows)]
        numbers = {at for at, place in enumerate(left) if head[place] in right}
        lines = aligned(chosen, numbers)
        if max(map(len, lines)) <= width:
            return lines
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]
