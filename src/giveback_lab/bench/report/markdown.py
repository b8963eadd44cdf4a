"""The medians as Markdown, to be read beside the code or pasted into a discussion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.analysis.comparable import is_own
from giveback_lab.bench.analysis.statistics import spread_of
from giveback_lab.bench.analysis.targets import harm
from giveback_lab.bench.report.text import (
    DASH,
    HURTS,
    METRICS,
    UNIT_NAMES,
    headline,
    range_text,
    setting_text,
    strategy_title,
    work_title,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback_lab.bench.analysis.comparable import CellGroup
    from giveback_lab.bench.analysis.targets import TargetFinding

FIRST = "footprint_after_gib_min"
COLUMNS = {
    FIRST: "footprint after the work",
    "peak_bytes": "peak",
    "residue_idle_bytes": "residue after idle",
    "returned_50_s": "50 % back after",
    "returned_90_s": "90 % back after",
    "slow_ratio": "the work's time against none's",
    "reread_disk_bytes": "re-read from disk",
    "regret_share": "touched again within 60 s of its return",
    "host_faults_after_pages": "host faults on guest RAM, idle",
    "host_faults_next_pages": "host faults, next work",
    "again_s": "started again, took",
    "requests_per_s": "requests a second",
    "latency_p50_s": "p50",
    "latency_p99_s": "p99",
    "vmm_cpu_s": "VMM CPU",
    "agent_cpu_s": "own CPU in the guest",
}
UNLESS_NEVER = ("returned_50_s", "returned_90_s")
NEVER = "never"


def markdown(groups: Sequence[CellGroup], all_findings: Sequence[TargetFinding]) -> str:
    """Return a table for each workload, the least footprint first; empty columns are left out."""
    parts = [f"{headline(all_findings)}.\n"]
    parts += [_table(group) for group in groups if group.cells]
    parts.append(
        f"Medians, and from the least to the greatest where rounds differ; {DASH}: not measured, or "
        f"not in turns with what it is held against; {NEVER}: in most rounds not "
        f"while it was watched. {HURTS}: hurts the work.\n"
    )
    return "\n".join(parts)


def _table(group: CellGroup) -> str:
    fields = [name for name in COLUMNS if any(group.values(s, name) for s in group.strategies)]
    units = [UNIT_NAMES[METRICS[name].unit] for name in fields]
    heads = [f"{COLUMNS[name]}, {unit}" for name, unit in zip(fields, units, strict=True)]
    rows = [f"## {cell(work_title(group.setting.work))} ({cell(setting_text(group.setting))})\n"]
    rows.append(row(["strategy", *heads, "rounds"]))
    rows.append(row(["---", *["---:"] * (len(heads) + 1)]))
    names = sorted(group.strategies, key=lambda name: _footprint(group, name))
    rows += [_strategy(group, name, fields) for name in names]
    return "\n".join(rows) + "\n"


def _footprint(group: CellGroup, strategy: str) -> float:
    spread = spread_of(group.values(strategy, FIRST).values())
    return spread.median if spread is not None else math.inf


def _strategy(group: CellGroup, name: str, fields: Sequence[str]) -> str:
    title = strategy_title(name) + (f" {HURTS}" if harm(group, name) else "")
    title = f"**{cell(title)}**" if is_own(name) else cell(title)
    figures = [_figure(group, name, field) for field in fields]
    return row([title, *figures, str(len(group.of(name)))])


def _figure(group: CellGroup, strategy: str, field: str) -> str:
    values = [*group.values(strategy, field).values()]
    if field in UNLESS_NEVER:
        values += [math.inf] * (len(group.of(strategy)) - len(values))
    spread = spread_of(values)
    if spread is None:
        return DASH
    if math.isinf(spread.median):
        return NEVER
    unit = METRICS[field].unit
    span = range_text(spread, unit) if field == FIRST else ""
    return written(spread.median, unit) + (f" ({span})" if span else "")


def row(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def cell(text: str, limit: int = 80) -> str:
    """Return text of others as one cell of a table."""
    return (
        escape_for_terminal(text, limit)
        .replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
    )
