"""Draw the history as a PNG or SVG file with matplotlib, which takes a second to import."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from matplotlib import dates
from matplotlib.figure import Figure

from giveback.errors import InputError
from giveback.manager.history.chart import lines_of
from giveback.reporters.charts.picture import drawable, write_picture
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import GIB

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.manager.history.records import HistorySpan

# Half of matplotlib has no types.
_DATES: Any = dates
_COLOURS = ("#0B6E99", "#C65D00", "#6B7280")


def write(history: HistorySpan, path: Path, kind: str) -> None:
    """Write a `png` or `svg` file. Raises InputError if there is nothing to draw, or writing fails."""
    lines = lines_of(history)
    if not lines:
        raise InputError("nothing was recorded in that time: no picture is written")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes: Any = figure.add_subplot()
    for line, colour in zip(lines, _COLOURS, strict=False):
        times = [dt.datetime.fromtimestamp(at_s).astimezone() for at_s, _ in line.points]
        values = [float("nan") if value is None else value / GIB for _, value in line.points]
        axes.plot(times, values, label=line.name, color=colour, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("GiB")
    locator = _DATES.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_DATES.ConciseDateFormatter(locator))
    axes.grid(visible=True, color="#E5E7EB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    name = "the host and its VMs" if history.vm is None else escape_for_terminal(history.vm, 60)
    # A `$` in a name must not begin a formula.
    axes.set_title(drawable(name), loc="left", parse_math=False)
    write_picture(figure, path, kind, name)
