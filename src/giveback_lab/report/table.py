"""The figures of a run as a table: for the terminal, as plain text, and as rows for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.report.layout import GIVEBACK_COLOUR, PLAIN_COLOUR
from giveback_lab.report.run import run_figures
from giveback_lab.report.words import (
    UNKNOWN,
    back_text,
    mib_text,
    percent_text,
    summary_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from giveback_lab.report.run import DemoRun, VmFigures, VmName

MOST_DMESG_LINES = 40

_COLOURS: dict[VmName, str] = {"plain": PLAIN_COLOUR, "giveback": GIVEBACK_COLOUR}


def _footprint(figures: VmFigures) -> str:
    spent = figures.footprint_gib_min
    return UNKNOWN if spent is None else f"{spent:.2f} GiB min"


_ROWS: tuple[tuple[str, str, Callable[[VmFigures], str]], ...] = (
    (
        "peak resident",
        "the most guest memory that the host held",
        lambda f: mib_text(f.peak_bytes),
    ),
    (
        "resident at the work's end",
        "guest RAM that occupies host memory",
        lambda f: mib_text(f.work_end_bytes),
    ),
    (
        "resident now",
        "the same at the end of the run",
        lambda f: mib_text(f.resident_now_bytes),
    ),
    (
        "non-free now",
        "in use in the guest, with its page cache: MemTotal less MemFree",
        lambda f: mib_text(f.non_free_now_bytes),
    ),
    (
        "reserved",
        "RAM less MemTotal: the guest's kernel image and memory map",
        lambda f: mib_text(f.reserved_now_bytes),
    ),
    (
        "residue now",
        "free in the guest, still held by the host: resident less non-free less reserved",
        lambda f: mib_text(f.residue_now_bytes),
    ),
    (
        "residue 60 s after the work",
        "the same, a minute after the work's end",
        lambda f: mib_text(f.residue_after_60_s_bytes),
    ),
    (
        "returnable at the work's end",
        "resident less what the VM needs",
        lambda f: mib_text(f.returnable_bytes),
    ),
    (
        "half of it back after",
        "seconds from the work's end",
        lambda f: back_text(f, f.half_back_s),
    ),
    (
        "90 % of it back after",
        "seconds from the work's end",
        lambda f: back_text(f, f.ninety_back_s),
    ),
    ("{footprint}", "resident memory times time, from the work's end", _footprint),
    (
        "the work took",
        "from its first phase's start to its last one's end",
        lambda f: UNKNOWN if f.work_s is None else f"{f.work_s:.1f} s",
    ),
    (
        "slowdown of the work",
        "against the same work in the plain VM",
        lambda f: percent_text(f.slowdown_ratio),
    ),
)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One figure of each VM, in the run's order, and a sentence on what it means."""

    label: str
    cells: tuple[str, ...]
    meaning: str


def table_rows(run: DemoRun) -> list[TableRow]:
    """Return the table's rows; a run without VMs has none."""
    all_figures = run_figures(run)
    if not all_figures:
        return []
    window_s = all_figures[0].footprint_s
    footprint = "footprint after the work" + (f", {window_s:.0f} s" if window_s else "")
    rows = [
        TableRow(label.format(footprint=footprint), tuple(map(cell, all_figures)), meaning)
        for label, meaning, cell in _ROWS
    ]
    compared = run.vm("plain") is not None and len(run.vms) > 1
    return rows if compared else rows[:-1]


def figures_table(run: DemoRun) -> Table:
    """Return the table for a terminal: a column for each VM, in the colour of its curve."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for vm in run.vms:
        heading = Text(vm.name, style=f"bold {_COLOURS[vm.name]}")
        table.add_column(heading, justify="right", no_wrap=True)
    for row in table_rows(run):
        style = "bold" if row.label.startswith(("resident now", "residue")) else ""
        table.add_row(Text(row.label), *map(Text, row.cells), style=style)
    return table


def print_report(run: DemoRun, console: Console) -> None:
    """Print the results of a finished run: the table, the guest's kernel log, the findings as text."""
    console.print()
    if console.is_terminal:
        console.print(figures_table(run))
    else:
        _print_line(console, plain_table(run).rstrip())
    for vm in run.vms:
        if vm.dmesg:
            _print_line(console, f"\ndmesg in the {vm.name} VM:", "bold")
        for line in vm.dmesg[-MOST_DMESG_LINES:]:
            _print_line(console, f"  {escape_for_terminal(line, 300)}")
    console.print()
    for line in summary_lines(run):
        _print_line(console, line)


def _print_line(console: Console, line: str, style: str = "") -> None:
    shown = line.encode(console.encoding, "replace").decode(console.encoding)
    console.print(Text(shown, style), soft_wrap=True, highlight=False)


def plain_table(run: DemoRun) -> str:
    """Return the table as ASCII text with aligned columns, for logs and pipes."""
    rows = [("", *(str(vm.name) for vm in run.vms))]
    rows += [(row.label, *row.cells) for row in table_rows(run)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for label, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((label.ljust(widths[0]), *padded)).rstrip())
    return "\n".join(lines) + "\n"
