"""The ledger as a picture: one bar a row, from what the host charges down to what is needed.

matplotlib takes 1 s to import: import this module only where a picture is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from giveback.accounting.ledger import NEEDED, RESIDUE, Row
from giveback.errors import InputError
from giveback.reporters.charts.picture import drawable, write_picture
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import MIB, size

if TYPE_CHECKING:
    from giveback.accounting.ledger import Ledger
    from giveback.accounting.observation import Observation

_NEEDED, _RESIDUE, _COST, _TEXT = "#4c78a8", "#e45756", "#9d9d9d", "#222222"


def _step(row: Row) -> int:
    """Return the order of a row: the VMM's own cost, then memory held but unused, then what is needed."""
    return 2 if row.key in NEEDED else 1 if row.key in RESIDUE else 0


def draw(seen: Observation, path: str) -> None:
    """Write the waterfall to `path`, SVG or PNG by its suffix; the same ledger makes the same bytes.

    Raises InputError if the file cannot be written or has another suffix.
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in ("svg", "png"):
        raise InputError(f"{path}: the picture's name must end in .svg or .png")
    if seen.ledger is not None:
        write_picture(
            _figure(seen, seen.ledger), Path(path), kind, escape_for_terminal(seen.vm.name, 40)
        )


def _figure(seen: Observation, ledger: Ledger) -> Figure:
    rows = sorted((row for row in ledger.rows if row.host_bytes), key=_step)
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    left = ledger.charged_bytes
    for place, row in enumerate(rows):
        left -= row.host_bytes
        colour = (_COST, _RESIDUE, _NEEDED)[_step(row)]
        axes.barh(place, row.host_bytes / MIB, left=left / MIB, color=colour)
        edge = max(left, left + row.host_bytes) / MIB
        axes.annotate(
            size(row.host_bytes), (edge, place), xytext=(4, 0),
            textcoords="offset points", va="center", color=_TEXT, fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [str(row.key) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    unknown = (
        f"\n? {drawable(escape_for_terminal(ledger.unknown.why, 110))}" if ledger.unknown else ""
    )
    axes.set_xlabel(f"MiB of host memory{unknown}", parse_math=False)
    axes.set_title(
        f"{drawable(escape_for_terminal(seen.vm.name, 40))}: the host charges {size(ledger.charged_bytes)} "
        f"for {size(ledger.ram_bytes)} of RAM; red is held but unused",
        parse_math=False,
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure
