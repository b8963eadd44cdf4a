"""The matrix as a Markdown table, and its place in a page between two markers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.bench.report.markdown import cell, row
from giveback_lab.matrix.rows import NOT_RUN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback_lab.matrix.results import EndFigures, RowResult

BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
MIB = 1 << 20
HEADS = (
    "kernel", "machine", "guest", "resident, as it ended → a minute later, MiB", "residue, MiB",
    "cold cache left, MiB", "back 15 s after the end", "back 60 s after", "hot files lost",
    "the agent's steps", "if low: what is missing",
)  # fmt: skip
NOT_RUN_HEADS = ("not run", "why", "tested on")


def table(results: Sequence[RowResult]) -> str:
    """Return the rows in their order, failed ones with their reason, and what cannot run here."""
    lines = [_row(HEADS), _row(["---"] * 3 + ["---:"] * 6 + ["---"] * 2)]
    lines += [_row(_cells(result)) for result in results]
    lines += ["", _row(NOT_RUN_HEADS), _row(["---"] * 3)]
    lines += [_row((one.what, one.why, one.tested)) for one in NOT_RUN]
    return "\n".join(lines) + "\n"


def _cells(result: RowResult) -> list[str]:
    row, figures = result.row, result.figures
    names = [row.kernel, row.machine, row.guest]
    if figures is None:
        return [*names, f"failed: {result.failure}", *[""] * (len(HEADS) - 4)]
    names[0] = figures.release
    before, after = figures.resident_before_bytes // MIB, figures.resident_after_bytes // MIB
    lost = 100.0 * figures.hot_lost_bytes / figures.hot_bytes if figures.hot_bytes else 0.0
    cold = "" if figures.cold_left_bytes is None else str(figures.cold_left_bytes // MIB)
    return [
        *names, f"{before} → {after}", str(figures.residue_bytes // MIB), cold,
        "; ".join(f"{_name(figures.ends, e)}{e.back_15_percent:.0f} %" for e in figures.ends),
        "; ".join(f"{_name(figures.ends, e)}{e.back_60_percent:.0f} %" for e in figures.ends),
        f"{lost:.1f} %", figures.method, figures.reason,
    ]  # fmt: skip


def _name(ends: Sequence[EndFigures], one: EndFigures) -> str:
    return f"{one.name} " if len(ends) > 1 else ""


def _row(cells: Sequence[str]) -> str:
    return row(cell(text, 200) for text in cells)


def spliced(page: str, content: str) -> str:
    """Return the page with `content` between its markers. Raises InputError if it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the page has no line {BEGIN} and, after it, {END}: add both")
    return f"{head}{BEGIN}\n{content}{END}{tail}"
