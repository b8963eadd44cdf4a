"""One snapshot as plain text, for scripts and pipes; `giveback top --once` prints it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.reporters.tables.columns import UNLIMITED, wrapped
from giveback.top.bars import legend
from giveback.top.lines import head, host_lines, vm_line
from giveback.top.order import chosen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.top.bars import Segments
    from giveback.top.model import TopSnapshot
    from giveback.top.order import TopView

PIPE_WIDTH = 200
"""Of a pipe, which has no width of its own: all columns, and verdicts in full sentences."""


def text(snapshot: TopSnapshot, view: TopView, source: str, width: int = UNLIMITED) -> str:
    """Return the host's lines, a line for each VM that the view selects, and a legend.

    No line is wider than `width`; a width of UNLIMITED is PIPE_WIDTH.
    """
    width = PIPE_WIDTH if width >= UNLIMITED else max(20, width)
    vms = chosen(snapshot.vms, view)
    lines = [joined(line) for line in host_lines(snapshot, width)]
    lines += wrapped(_count_words(snapshot, len(vms), source), width)
    lines.append("")
    if vms:
        lines += [joined(head(width, view, has_trend=False))]
        lines += [joined(vm_line(vm, None, width)) for vm in vms]
        lines += ["", *wrapped(joined(legend()).strip(), width)]
    for problem in snapshot.problems:
        lines += wrapped(f"problem: {problem}", width)
    return "\n".join(line.rstrip() for line in lines)


def _count_words(snapshot: TopSnapshot, shown: int, source: str) -> str:
    there = len(snapshot.vms)
    words = "no VM runs on this host" if not there else f"{there} VM" + ("" if there == 1 else "s")
    return f"{words}, {shown} shown; {source}" if shown < there else f"{words}; {source}"


def joined(line: Segments | Sequence[tuple[str, str]]) -> str:
    """Return a line without its styles."""
    return "".join(piece for piece, _ in line)
