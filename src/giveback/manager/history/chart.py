"""Render the history as a chart of characters, as a table and as CSV. Pure."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

from giveback.reporters.charts.terminal import area, binned
from giveback.reporters.tables.columns import size_or_unknown
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.manager.history.records import HistoryHost, HistorySample, HistorySpan
    from giveback.manager.model import RecordedAction

_GUTTER = 10
_LEAST_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name, and for each row a time and a value (None: unknown)."""

    name: str
    points: tuple[tuple[int, int | None], ...]

    @property
    def most(self) -> int:
        """The largest value; 0 if all are unknown."""
        return max((value for _, value in self.points if value is not None), default=0)


def lines_of(history: HistorySpan) -> tuple[Line, ...]:
    """Return the curves of a history: of the VM if one is named, else of the host."""
    rows: Sequence[HistoryHost | HistorySample]
    if history.vm is None:
        rows, columns = history.host, ("available_bytes", "resident_bytes", "residue_bytes")
        names = ("host's available memory", "VMs' resident memory", "VMs' residue")
    else:
        rows, columns = history.samples, ("resident_bytes", "needed_bytes", "residue_bytes")
        names = ("resident", "needed", "residue")
    found = (
        Line(name, tuple((row.at_s, getattr(row, column)) for row in rows))
        for name, column in zip(names, columns, strict=True)
    )
    return tuple(line for line in found if any(value is not None for _, value in line.points))


def chart(history: HistorySpan, width: int = 78, height: int = 6) -> str:
    """Return each curve as an area of block characters, over one time axis."""
    lines = lines_of(history)
    if not lines:
        return "nothing was recorded in that time"
    from_s, to_s = _extent(history.from_s, lines)
    columns = max(_LEAST_WIDTH, width - _GUTTER - 1)
    drawn = [_area(line, from_s, to_s, columns, height) for line in lines]
    left, right = _clock(from_s, to_s - from_s), _clock(to_s, to_s - from_s)
    axis = " " * (_GUTTER + 1) + left + right.rjust(columns - len(left))
    return "\n".join([*drawn, axis])


def _extent(from_s: int, lines: Sequence[Line]) -> tuple[int, int]:
    """Return begin and end of the records within the requested span, in Unix seconds."""
    times = [at_s for line in lines for at_s, _ in line.points]
    return max(from_s, min(times)), max(times) + 1


def _area(line: Line, from_s: int, to_s: int, columns: int, height: int) -> str:
    values = binned(line.points, from_s, to_s, columns)
    most = line.most or 1
    now = size_or_unknown(line.points[-1][1])
    head = f"{escape_for_terminal(line.name)}: now {now}, most {size(line.most)}"
    rows = [" " * (_GUTTER + 1) + head]
    for down, cells in enumerate(area(values, most, height)):
        label = {0: size(most), height - 1: "0"}.get(down, "")
        rows.append(f"{label:>{_GUTTER}} {cells}".rstrip())
    return "\n".join(rows)


def _clock(at_s: int, span_s: int) -> str:
    pattern = "%H:%M:%S" if span_s < 3600 else "%H:%M" if span_s < 86400 else "%Y-%m-%d %H:%M"
    return time.strftime(pattern, time.localtime(at_s))


def actions_text(history: HistorySpan, most: int = 10) -> str:
    """Return the last actions, one line each."""
    actions = history.actions
    lines = [
        f"{time.strftime('%m-%d %H:%M:%S', time.localtime(action.wall_s))}  "
        f"{escape_for_terminal(action.vm or 'host', 40)}  "
        f"{escape_for_terminal(action.kind, 20)}  {_came(action)}"
        for action in actions[-most:]
    ]
    if len(actions) > most:
        lines.insert(0, f"the last {most} of {len(actions)} actions:")
    return "\n".join(lines)


def _came(action: RecordedAction) -> str:
    measured = action.measured_bytes
    if not action.expected_bytes:
        return escape_for_terminal(action.reason, 120)  # A deflation returns nothing to the host.
    came = size_or_unknown(measured)
    why = escape_for_terminal(action.verdict or action.reason, 120)
    return f"{came} of {size(action.expected_bytes)}" + (f"  {why}" if why else "")


def as_csv(history: HistorySpan) -> str:
    """Return a line for each record of the VM or of the host, after a line with the column names."""
    rows: Sequence[HistoryHost | HistorySample]
    rows = history.host if history.vm is None else history.samples
    out = io.StringIO()
    if rows:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(spec.name for spec in fields(rows[0]))
        writer.writerows(map(cell_text, astuple(row)) for row in rows)
    return out.getvalue()


def cell_text(value: object) -> object:
    """Return the value; text that a spreadsheet would take as a formula gets a leading quote."""
    if not isinstance(value, str):
        return value
    safe = escape_for_terminal(value, 300)
    return f"'{safe}" if safe[:1] in ("=", "+", "-", "@") else safe
