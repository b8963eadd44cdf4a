"""Charts of block characters for a terminal. Pure: rows of text, no colour codes, no size queries.

An area has eight steps to a row. A line is drawn with braille dots, two columns and four rows of
them to a character. So both can share a raster and differ without colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
"""From an empty cell to a full one, in equal steps."""
ASCII_BLOCKS = "  ...:###"
HOLE = "·"
"""In the lowest row: nothing is known of this column."""

_BRAILLE = 0x2800
# Bits of a braille cell: two columns of dots, from the bottom upwards.
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))


class Raster:
    """A grid of styled characters; positions outside it are ignored."""

    def __init__(self, width: int, height: int) -> None:
        self._cells = [[(" ", "")] * width for _ in range(height)]

    def put(self, row: int, column: int, text: str, style: str = "") -> None:
        """Write `text` from that cell to the right."""
        for offset, character in enumerate(text):
            if 0 <= row < len(self._cells) and 0 <= column + offset < len(self._cells[row]):
                self._cells[row][column + offset] = (character, style)

    def lay(self, row: int, column: int, rows: Iterable[str], style: str = "") -> None:
        """Write rows below one another; blanks leave the earlier characters."""
        for down, text in enumerate(rows):
            for offset, character in enumerate(text):
                if character != " ":
                    self.put(row + down, column + offset, character, style)

    def get(self, row: int, column: int) -> str:
        """Return the character of that cell."""
        return self._cells[row][column][0]

    def rows(self) -> list[list[tuple[str, str]]]:
        """Return each row as (character, style) pairs, without the blanks at its end."""
        found = []
        for cells in self._cells:
            end = max((at + 1 for at, (text, _) in enumerate(cells) if text != " "), default=0)
            found.append(cells[:end])
        return found


def area(
    values: Sequence[float | None], most: float, height: int, blocks: str = BLOCKS
) -> list[str]:
    """Return `height` rows, the upper first: a column of blocks for each value, up to `most`.

    A value above zero is never blank; None leaves a gap.
    """
    steps = len(blocks) - 1
    levels = [None if value is None else _level(value, most, steps * height) for value in values]
    rows = []
    for row in reversed(range(height)):
        blank = " " if row else HOLE
        cells = (
            blank if level is None else blocks[max(0, min(steps, level - steps * row))]
            for level in levels
        )
        rows.append("".join(cells))
    return rows


def _level(value: float, most: float, steps: int) -> int:
    if value <= 0 or most <= 0:
        return 0
    return max(1, round(min(1.0, value / most) * steps))


def bar(value: float, whole: float, width: int) -> str:
    """Return a bar from the left; it is `width` characters long if `value` equals `whole`."""
    full = round(width * max(0.0, value) / whole) if whole > 0 else 0
    return BLOCKS[-1] * min(width, full)


def dotted_line(
    halves: Mapping[int, float], most: float, height: int
) -> dict[tuple[int, int], str]:
    """Return the cells of a line as (row from the top, column) and their braille characters.

    `halves` maps half columns (0 and 1 are those of column 0) to values from 0 to `most`. A steep
    rise is one vertical stroke.
    """
    bits: dict[tuple[int, int], int] = {}
    before: int | None = None
    for half, value in sorted(halves.items()):
        at = round(max(0.0, min(1.0, value / most)) * (4 * height - 1))
        low, high = sorted((at, at if before is None else before))
        # The stroke's end was drawn with the half column before.
        low = min(low + 1, high) if before == low else low
        for dot in range(low, high + 1):
            cell = (height - 1 - dot // 4, half // 2)
            bits[cell] = bits.get(cell, 0) | _DOTS[half % 2][dot % 4]
        before = at
    return {cell: chr(_BRAILLE + dots) for cell, dots in bits.items()}


def binned(
    points: Sequence[tuple[float, float | None]], start: float, end: float, columns: int
) -> list[float | None]:
    """Return the greatest value in each column's time, None if none was measured.

    A column between two samples that are further apart than a column is wide is not a gap.
    """
    found: list[float | None] = [None] * columns
    span = max(1.0, end - start)
    for at, value in points:
        column = min(columns - 1, max(0, int((at - start) * columns // span)))
        if value is not None:
            found[column] = max(value, found[column] or 0.0)
    gap = max(1, columns // max(1, len(points))) + 1
    last, since = None, 0
    for index, value in enumerate(found):
        since = 0 if value is not None else since + 1
        last = value if value is not None else last
        found[index] = last if since <= gap else None
    return found
