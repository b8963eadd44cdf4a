"""The benchmark as one HTML page that loads nothing: no network, no fonts, no script.

This module makes the page's content, as data for its template. All text is escaped. The page's
policy lets a browser load nothing.
"""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.analysis.comparable import NONE, OURS, is_own
from giveback_lab.bench.analysis.metrics import FIELDS
from giveback_lab.bench.analysis.statistics import compare, spread_of
from giveback_lab.bench.analysis.targets import TARGETS, Verdict, harm
from giveback_lab.bench.report.figures import CSS_NAMES, NARROW, WIDE
from giveback_lab.bench.report.figures_bars import bars_figure, scatter_figure
from giveback_lab.bench.report.figures_time import resident_figure
from giveback_lab.bench.report.tables import versions
from giveback_lab.bench.report.text import (
    HURTS,
    METRICS,
    TABLES,
    TIMES,
    UNIT_NAMES,
    bench_command,
    difference_text,
    figure_text,
    group_title,
    headline,
    range_text,
    ratio_digits,
    setting_text,
    several,
    strategy_source,
    strategy_title,
    with_unit,
    written,
)
from giveback_lab.report import html
from giveback_lab.report.painting import inline_svg
from giveback_lab.report.words import ram_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import CellGroup
    from giveback_lab.bench.analysis.targets import BenchTarget, TargetFinding
    from giveback_lab.bench.model import CellResult
    from giveback_lab.bench.report.text import Metric

_CLASSES = {
    Verdict.MET: "met",
    Verdict.MISSED: "missed",
    Verdict.IN_NOISE: "noise",
    Verdict.UNMEASURED: "unmeasured",
}


def render_page(
    results: Sequence[CellResult],
    groups: Sequence[CellGroup],
    all_findings: Sequence[TargetFinding],
    command: str | None = None,
) -> str:
    """Return the page. `command` made the results; by default it is derived from the results."""
    counting = [finding for finding in all_findings if finding.counts]
    targets = [target for target in TARGETS if any(f.target == target for f in counting)]
    return html.render(
        "bench.html",
        title=headline(all_findings),
        about=_about(results, groups),
        targets=[(target.title, _limit(target)) for target in targets],
        works=[_work(group, groups, targets, all_findings) for group in groups],
        busy=_busy(results),
        several=several(groups),
        strategies=_strategies(results),
        versions=_versions(results),
        missing=_missing(results, groups),
        command=escape_for_terminal(command or bench_command(results), 4000),
    )


def _about(results: Sequence[CellResult], groups: Sequence[CellGroup]) -> str:
    names = {result.cell.strategy for result in results}
    rounds = max((group.rounds for group in groups), default=0)
    hours = sum(result.took_s for result in results) / 3600
    settings = ", ".join(dict.fromkeys(setting_text(group.setting) for group in groups))
    works = len({group.setting.work for group in groups})
    return (
        f"{_many(len(names), 'strategies', 'strategy')} on {_many(works, 'works', 'work')}, "
        f"{_many(rounds, 'rounds', 'round')}, {_many(len(results), 'cells', 'cell')}, "
        f"{hours:.1f} hours of measuring in real VMs. {settings}."
    )


def _many(count: int, many: str, one: str) -> str:
    return f"{count} {one if count == 1 else many}"


# Verdicts


def _limit(target: BenchTarget) -> str:
    return f"{target.limit:g}\u00a0{TIMES}"


def _overview(finding: TargetFinding | None) -> dict[str, str] | None:
    """Return a workload's cell for one target: the ratio, in the colour of its verdict."""
    if finding is None:
        return None
    comparison, text = finding.comparison, "\u2014"
    if comparison is not None and finding.grain_bytes is not None:
        text = with_unit(comparison.ours, "bytes")
    elif comparison is not None:
        text = f"{ratio_digits(comparison.ratio)}\u00a0{TIMES}"
    return {"css": _CLASSES[finding.verdict], "text": text, "verdict": finding.verdict}


def _verdict(finding: TargetFinding) -> dict[str, object]:
    return {
        "counts": finding.counts,
        "title": finding.target.title,
        "limit": _limit(finding.target),
        "measured": _unbroken(figure_text(finding)),
        "against": escape_for_terminal(finding.against or "", 60),
        "remark": escape_for_terminal(finding.remark, 200),
        "verdict": finding.verdict,
        "css": _CLASSES[finding.verdict],
    }


def _unbroken(text: str) -> Markup:
    """Return a range of numbers that is not broken across lines."""
    found = re.sub(r"\([^() ]*\)", r'<span class="range">\g<0></span>', str(escape(text)))
    return Markup(found)  # noqa: S704  # escaped in the line above


# One work


def _work(
    group: CellGroup,
    groups: Sequence[CellGroup],
    targets: Sequence[BenchTarget],
    findings: Sequence[TargetFinding],
) -> dict[str, object]:
    of_group = [finding for finding in findings if finding.setting == group.setting]
    counting = {finding.target: finding for finding in of_group if finding.counts}
    after = ", ".join(f"{after_s:.0f} s" for after_s in dict.fromkeys(group.after_s))
    rounds = _many(group.rounds, "rounds", "round")
    drawn = (
        ("time", resident_figure, "Guest memory resident on the host over time"),
        ("bars", bars_figure, f"What is held after the work; {HURTS}: hurts the work"),
        ("cost", scatter_figure, "Cost against gain: bottom left is best"),
    )
    measured = bool(group.cells)
    return {
        "anchor": group.setting.safe_key,
        "title": group_title(group, groups),
        "overview": [_overview(counting.get(target)) for target in targets],
        "findings": [_verdict(finding) for finding in of_group],
        "measured": measured,
        "about": f"{setting_text(group.setting)}; {rounds}; watched for {after} after the work.",
        "figures": [
            (caption, charts)
            for name, paint, caption in drawn
            if measured and (charts := _charts(group, name, paint, caption))
        ],
        "parts": _ablations(group),
        "tables": [table for title, metrics in TABLES if (table := _table(group, title, metrics))],
    }


def _charts(
    group: CellGroup, name: str, paint: Callable[..., Figure | None], caption: str
) -> list[Markup]:
    charts = []
    for css_class, width in (("wide", WIDE), ("narrow", NARROW)):
        figure = paint(group, width, titled=False)
        if figure is not None:
            prefix = f"f-{group.setting.safe_key}-{name}-{css_class}".replace(".", "-")
            about = {"class": css_class, "role": "img", "aria-label": _spoken(group, caption)}
            charts.append(inline_svg(figure, prefix, about, CSS_NAMES))
    return charts


def _spoken(group: CellGroup, caption: str) -> str:
    """Return a text alternative for the figure: the footprints, which the tables repeat."""
    told = []
    for name in (OURS, NONE, "reporting"):
        spread = spread_of(group.values(name, "footprint_after_gib_min").values())
        if spread is not None:
            told.append(f"{name} {spread.median:.2f}")
    return f"{caption}. Footprint after the work in GiB min: {', '.join(told)}. See the tables."


def _ablations(group: CellGroup) -> list[str]:
    """Return what each part of giveback is worth: the figures without it, against the complete giveback."""
    return [
        f"{escape_for_terminal(strategy_title(name), 200)}: {said}"
        for name in group.strategies
        if name.startswith(f"{OURS}-") and (said := _without(group, name))
    ]


def _without(group: CellGroup, name: str) -> str:
    """Return how footprint, residue and the workload's time differ from those of the complete giveback."""
    said = []
    for field, what in (
        ("footprint_after_gib_min", "footprint"),
        ("work_s", "the work's time"),
        ("reread_s", "re-read"),
    ):
        theirs, ours = group.comparable(name, field, OURS), group.values(OURS, field)
        comparison = compare(theirs, ours, group.baseline(field))
        if comparison is not None:
            same = comparison.differs is False
            said.append(f"{what} {'alike' if same else difference_text(comparison)}")
    residues = [spread_of(group.values(one, "residue_idle_bytes").values()) for one in (name, OURS)]
    sizes = [with_unit(residue.median, "bytes") for residue in residues if residue is not None]
    if len(sizes) == 2:
        said.append(f"residue after idle {sizes[0]} instead of {sizes[1]}")
    return ", ".join(said)


def _table(group: CellGroup, title: str, metrics: Sequence[Metric]) -> dict[str, object] | None:
    known = [
        metric
        for metric in metrics
        if any(group.values(name, metric.field) for name in group.strategies)
    ]
    if not known:
        return None
    rows = [
        {
            "ours": name == OURS,
            "name": escape_for_terminal(name, 60) + (f" {HURTS}" if harm(group, name) else ""),
            "cells": [_cell(group, name, metric) for metric in known],
        }
        for name in group.strategies
    ]
    heads = [(metric.label, UNIT_NAMES[metric.unit]) for metric in known]
    return {"title": title, "heads": heads, "rows": rows}


def _cell(group: CellGroup, name: str, metric: Metric) -> dict[str, object]:
    """Return the median with the range below it; a ratio inside the noise is shown as none."""
    values = group.values(name, metric.field)
    spread = spread_of(values.values())
    if spread is None:
        return {"text": "\u2014", "below": "", "same": False}
    text, same = written(spread.median, metric.unit), False
    if metric.unit == "ratio" and name != NONE:
        base = {"slow_ratio": "work_s", "reread_ratio": "reread_s"}[metric.field]
        ours, none = group.comparable(name, base, NONE), group.values(NONE, base)
        comparison = compare(ours, none, group.baseline(base))
        if comparison is not None:
            text = difference_text(comparison).replace("none", "no difference")
            same = comparison.differs is False
    few = f"{spread.count} of {group.rounds} rounds" if spread.count < group.rounds else ""
    below = "; ".join(part for part in (range_text(spread, metric.unit), few) if part)
    return {"text": text, "below": below, "same": same}


# Below


def _busy(results: Sequence[CellResult]) -> dict[str, str] | None:
    """Return the fraction of the host's CPUs that others used: in the median cell, and in the worst."""
    busy = [result.host_busy_share for result in results]
    if not busy:
        return None
    return {"median": f"{100 * median(busy):.1f}", "most": f"{100 * max(busy):.1f}"}


def _strategies(results: Sequence[CellResult]) -> list[tuple[str, str, str]]:
    rows = []
    for name in dict.fromkeys(result.cell.strategy for result in results):
        title, source = strategy_title(name), strategy_source(name)
        row = (
            escape_for_terminal(name, 60),
            escape_for_terminal(title, 200) if title != name else "",
            escape_for_terminal(source, 400),
        )
        if any(row[1:]):
            rows.append(row)
    return rows


def _versions(results: Sequence[CellResult]) -> list[tuple[str, str, str]]:
    rows = [
        (name, ", ".join(found), "")
        for name, found in versions(results).items()
        # These two differ between strategies by design; where they should not, `_mixed` reports it.
        if name not in ("work", "strategy")
    ]
    starts = sorted(result.started_at for result in results)
    if starts:
        between = starts[0] if len(starts) == 1 else f"{starts[0]} to {starts[-1]}"
        rows.append(("started", escape_for_terminal(between, 200), ""))
    sizes = ", ".join(ram_text(size) for size in sorted({r.cell.mem_bytes for r in results}))
    return [*rows, ("guest memory", sizes or "-", "")]


def _missing(
    results: Sequence[CellResult], groups: Sequence[CellGroup]
) -> list[tuple[str, list[str]]]:
    """Return failed cells, cells with problems, figures no cell has, strategies a workload lacks."""
    failed = [
        f"{failed.cell.key}: {'; '.join(failed.reasons)}"
        for group in groups
        for failed in group.failed
    ]
    troubled = [
        f"{cell.result.cell.key}: {'; '.join(cell.result.problems)}"
        for group in groups
        for cell in group.cells
        if cell.result.problems
    ]
    lists = (
        ("Cells that failed; they are in no figure:", failed),
        ("Cells with problems; they count as measured:", troubled),
        ("Measured with more than one version:", _mixed(results)),
        ("Never measured:", _never(results, groups)),
    )
    return [
        (title, [escape_for_terminal(item, 400) for item in items])
        for title, items in lists
        if items
    ]


def _mixed(results: Sequence[CellResult]) -> list[str]:
    """Return the workloads, strategies and agents that changed between rounds."""
    found: dict[str, set[str]] = {}
    for result in results:
        cell, of = result.cell, result.versions
        found.setdefault(f"work {cell.work}", set()).add(of.get("work", ""))
        found.setdefault(f"strategy {cell.strategy}", set()).add(of.get("strategy", ""))
        if is_own(cell.strategy) and result.vms:
            found.setdefault("giveback's agent", set()).add(of.get("agent", ""))
    return [f"{what}: {len(known)} versions" for what, known in found.items() if len(known) > 1]


def _never(results: Sequence[CellResult], groups: Sequence[CellGroup]) -> list[str]:
    items = []
    names = list(dict.fromkeys(result.cell.strategy for result in results))
    for group in groups:
        lacking = [name for name in names if name not in group.strategies]
        if lacking:
            items.append(f"{group_title(group, groups)}: {', '.join(lacking)}")
    cells = [cell for group in groups for cell in group.cells]
    empty = [
        METRICS[field].label
        for field in FIELDS
        if field in METRICS and all(getattr(c.figures, field) is None for c in cells)
    ]
    if cells and empty:
        items.append(f"of any cell: {', '.join(empty)}")
    return items
