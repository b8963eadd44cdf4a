"""Rows of cells as lines of aligned columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


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


def size_or_unknown(value_bytes: int | None) -> str:
    """Return a size in the unit that people read; `?` for None."""
    return "?" if value_bytes is None else size(value_bytes)
