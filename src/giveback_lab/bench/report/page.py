"""The benchmark as one HTML page that needs nothing else: no network, no fonts, no script. Pure.

All text is escaped; the page's policy lets a browser load nothing.
"""

from __future__ import annotations

import re
from html import escape
from statistics import median
from typing import TYPE_CHECKING

from giveback_lab.bench.analysis.comparable import NONE, OURS, is_own
from giveback_lab.bench.analysis.metrics import FIELDS
from giveback_lab.bench.analysis.statistics import compare, spread_of
from giveback_lab.bench.analysis.targets import TARGETS, Verdict, harm
from giveback_lab.bench.report.figures import CSS_NAMES, NARROW, WIDE
from giveback_lab.bench.report.figures_bars import bars_figure, scatter_figure
from giveback_lab.bench.report.figures_time import resident_figure
from giveback_lab.bench.report.page_parts import METHOD, STYLE
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
    ram_text,
    range_text,
    ratio_digits,
    safe,
    setting_text,
    several,
    strategy_source,
    strategy_title,
    with_unit,
    written,
)
from giveback_lab.report.painting import inline_svg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import Group
    from giveback_lab.bench.analysis.targets import Finding
    from giveback_lab.bench.model import CellResult
    from giveback_lab.bench.report.text import Metric

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
_CLASSES = {
    Verdict.MET: "met",
    Verdict.MISSED: "missed",
    Verdict.IN_NOISE: "noise",
    Verdict.UNMEASURED: "unmeasured",
}


def render_page(
    results: Sequence[CellResult],
    groups: Sequence[Group],
    all_findings: Sequence[Finding],
    command: str | None = None,
) -> str:
    """The page; `command` is what made the results, by default read from the results themselves."""
    title = escape(headline(all_findings))
    body = "\n".join(
        (
            "<header>",
            '<p class="kicker">giveback bench: every strategy on the same work</p>',
            f"<h1>{title}</h1>",
            f"<p>{escape(_about(results, groups))}</p>",
            "</header>",
            "<main>",
            _overview(groups, all_findings),
            _verdicts(groups, all_findings),
            *(_section(group, groups) for group in groups),
            _method(results, groups),
            _strategies(results),
            _versions(results),
            _missing(results, groups),
            "<h2>Reproduce</h2>",
            f"<pre><code>{escape(safe(command or bench_command(results), 4000))}</code></pre>",
            "</main>",
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _about(results: Sequence[CellResult], groups: Sequence[Group]) -> str:
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


def _overview(groups: Sequence[Group], all_findings: Sequence[Finding]) -> str:
    """A row for each work, a column for each target: the ratio in the colour of its verdict."""
    counting = [finding for finding in all_findings if finding.counts]
    targets = [target for target in TARGETS if any(f.target == target for f in counting)]
    if not targets:
        return "<p>Nothing could be compared.</p>"
    heads = "".join(
        f'<th scope="col">{escape(t.title)}<small>at most {t.limit:g}\u00a0{TIMES}</small></th>'
        for t in targets
    )
    rows = []
    for group in groups:
        of_group = {f.target: f for f in counting if f.setting == group.setting}
        cells = "".join(
            _overview_cell(of_group[target]) if target in of_group else "<td></td>"
            for target in targets
        )
        name = f'<a href="#{_anchor(group)}">{escape(group_title(group, groups))}</a>'
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0"><table class="figures overview">\n'
        f'<thead><tr><th scope="col">giveback on</th>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _overview_cell(finding: Finding) -> str:
    comparison = finding.comparison
    verdict = f"<small>{finding.verdict}</small>"
    text = "\u2014"
    if comparison is not None and finding.grain_bytes is not None:
        text = with_unit(comparison.ours, "bytes")
    elif comparison is not None:
        text = f"{ratio_digits(comparison.ratio)}\u00a0{TIMES}"
    return f'<td class="{_CLASSES[finding.verdict]}">{escape(text)}{verdict}</td>'


def _verdicts(groups: Sequence[Group], all_findings: Sequence[Finding]) -> str:
    parts = []
    for group in groups:
        rows = [_verdict_row(f) for f in all_findings if f.setting == group.setting]
        if rows:
            name = f'<a href="#{_anchor(group)}">{escape(group_title(group, groups))}</a>'
            head = f'<tr><th colspan="5" scope="rowgroup">{name}</th></tr>'
            parts.append("\n".join(("<tbody>", head, *rows, "</tbody>")))
    if not parts:
        return ""
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("target", "at most", "measured", "against", "verdict")
    )
    return (
        '<h2 id="verdicts">Targets and verdicts</h2>\n'
        '<p class="note">giveback against the strategy that is best at just that, on each work. '
        "Grey rows do not count: they say the same against the best of those that do not hurt the "
        'work. <a href="#method">How it was measured</a>.</p>\n'
        f'<table class="verdicts" aria-labelledby="verdicts">\n<thead><tr>{heads}</tr></thead>\n'
        + "\n".join(parts)
        + "\n</table>"
    )


def _verdict_row(finding: Finding) -> str:
    target = finding.target
    against = "" if finding.against is None else safe(finding.against, 60)
    remark = f"<small>{escape(safe(finding.remark))}</small>" if finding.remark else ""
    row = "" if finding.counts else ' class="gentle"'
    verdict = f'<span class="verdict {_CLASSES[finding.verdict]}">{finding.verdict}</span>'
    return (
        f'<tr{row}><th scope="row">{escape(target.title)}</th>'
        f'<td data-label="at most">{target.limit:g}\u00a0{TIMES}</td>'
        f"<td>{_unbroken(escape(figure_text(finding)))}</td>"
        f'<td data-label="against">{escape(against)}{remark}</td><td>{verdict}</td></tr>'
    )


def _unbroken(text: str) -> str:
    """A range of numbers stays on one line."""
    return re.sub(r"\([^() ]*\)", lambda found: f'<span class="range">{found[0]}</span>', text)


def _anchor(group: Group) -> str:
    return "".join(
        c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in group.setting.key
    )


# One work


def _section(group: Group, groups: Sequence[Group]) -> str:
    heading = f'<h2 id="{_anchor(group)}">{escape(group_title(group, groups))}</h2>'
    if not group.cells:
        return f"{heading}\n<p>No cell of this work could be measured.</p>"
    after = ", ".join(f"{after_s:.0f} s" for after_s in dict.fromkeys(group.after_s))
    rounds = _many(group.rounds, "rounds", "round")
    about = f"{setting_text(group.setting)}; {rounds}; watched for {after} after the work."
    parts = [
        heading,
        f'<p class="note">{escape(about)}</p>',
        _figure(group, "time", resident_figure, "Guest memory resident on the host over time"),
        _figure(
            group, "bars", bars_figure, f"What is held after the work; {HURTS}: hurts the work"
        ),
        _figure(group, "cost", scatter_figure, "Cost against gain: bottom left is best"),
        _ablations(group),
        *(_table(group, title, metrics) for title, metrics in TABLES),
    ]
    return "\n".join(part for part in parts if part)


def _figure(group: Group, name: str, paint: Callable[..., Figure | None], caption: str) -> str:
    charts = []
    for css_class, width in (("wide", WIDE), ("narrow", NARROW)):
        figure = paint(group, width, titled=False)
        if figure is not None:
            prefix = f"f-{_anchor(group)}-{name}-{css_class}".replace(".", "-")
            about = {"class": css_class, "role": "img", "aria-label": _spoken(group, caption)}
            charts.append(inline_svg(figure, prefix, about, CSS_NAMES))
    if not charts:
        return ""
    told = f"<figcaption>{escape(caption)}</figcaption>"
    return f"<figure>\n{told}\n" + "\n".join(charts) + "\n</figure>"


def _spoken(group: Group, caption: str) -> str:
    """The figure for those who do not see it: the footprints, which the tables repeat."""
    told = []
    for name in (OURS, NONE, "reporting"):
        spread = spread_of(group.values(name, "footprint_after_gib_min").values())
        if spread is not None:
            told.append(f"{name} {spread.median:.2f}")
    return f"{caption}. Footprint after the work in GiB min: {', '.join(told)}. See the tables."


def _ablations(group: Group) -> str:
    """What each part of giveback is worth: what it comes to without it, against the whole."""
    items = [
        f"<li>{escape(safe(strategy_title(name)))}: {escape(said)}</li>"
        for name in group.strategies
        if name.startswith(f"{OURS}-") and (said := _without(group, name))
    ]
    if not items:
        return ""
    return "<h3>What each part is worth</h3>\n<ul>\n" + "\n".join(items) + "\n</ul>"


def _without(group: Group, name: str) -> str:
    """How footprint, residue and the work's time differ from those of the whole giveback."""
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


def _table(group: Group, title: str, metrics: Sequence[Metric]) -> str:
    known = [
        metric
        for metric in metrics
        if any(group.values(name, metric.field) for name in group.strategies)
    ]
    if not known:
        return ""
    heads = "".join(
        f'<th scope="col">{escape(m.label)}<small>{escape(UNIT_NAMES[m.unit])}</small></th>'
        for m in known
    )
    rows = []
    for name in group.strategies:
        css = ' class="ours"' if name == OURS else ""
        mark = f" {HURTS}" if harm(group, name) else ""
        cells = "".join(_cell(group, name, metric) for metric in known)
        rows.append(f'<tr{css}><th scope="row">{escape(safe(name, 60))}{mark}</th>{cells}</tr>')
    return (
        f'<h3>{escape(title)}</h3>\n<div class="scroll" tabindex="0">'
        f'<table class="figures">\n<thead><tr><th scope="col">strategy</th>{heads}</tr></thead>\n'
        "<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _cell(group: Group, name: str, metric: Metric) -> str:
    """The median, below it the range; a ratio inside the noise is said to be none."""
    values = group.values(name, metric.field)
    spread = spread_of(values.values())
    if spread is None:
        return "<td>\u2014</td>"
    text, css = written(spread.median, metric.unit), ""
    if metric.unit == "ratio" and name != NONE:
        base = {"slow_ratio": "work_s", "reread_ratio": "reread_s"}[metric.field]
        ours, none = group.comparable(name, base, NONE), group.values(NONE, base)
        comparison = compare(ours, none, group.baseline(base))
        if comparison is not None:
            text = difference_text(comparison).replace("none", "no difference")
            css = ' class="same"' if comparison.differs is False else ""
    few = f"{spread.count} of {group.rounds} rounds" if spread.count < group.rounds else ""
    small = "; ".join(part for part in (range_text(spread, metric.unit), few) if part)
    below = f"<small>{escape(small)}</small>" if small else ""
    return f"<td{css}>{escape(text)}{below}</td>"


# Below


def _method(results: Sequence[CellResult], groups: Sequence[Group]) -> str:
    told = "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in METHOD)
    busy = [result.host_busy_share for result in results]
    others = (
        f"<p>Others than the measured VMs used {100 * median(busy):.1f} % of the host's CPUs "
        f"meanwhile (median of the cells), {100 * max(busy):.1f} % at worst.</p>"
        if busy
        else ""
    )
    mixed = (
        "<p>Kernels and memory sizes are never mixed: each is a table of its own.</p>"
        if several(groups)
        else ""
    )
    return f'<h2 id="method">How it was measured</h2>\n{told}\n{others}\n{mixed}'


def _strategies(results: Sequence[CellResult]) -> str:
    rows = []
    for name in dict.fromkeys(result.cell.strategy for result in results):
        title, source = strategy_title(name), strategy_source(name)
        said = escape(safe(title)) if title != name else ""
        where = f"<small>{escape(safe(source, 400))}</small>" if source else ""
        if said or where:
            rows.append(f"<dt>{escape(safe(name, 60))}</dt><dd>{said}{where}</dd>")
    return "<h2>Strategies</h2>\n<dl>\n" + "\n".join(rows) + "\n</dl>" if rows else ""


def _versions(results: Sequence[CellResult]) -> str:
    rows = [
        f"<dt>{escape(name)}</dt><dd>{escape(', '.join(found))}</dd>"
        for name, found in versions(results).items()
        # These two are different for each by design; where they are not, `_mixed` says so.
        if name not in ("work", "strategy")
    ]
    starts = sorted(result.started_at for result in results)
    if starts:
        between = starts[0] if len(starts) == 1 else f"{starts[0]} to {starts[-1]}"
        rows.append(f"<dt>started</dt><dd>{escape(safe(between))}</dd>")
    sizes = ", ".join(ram_text(size) for size in sorted({r.cell.mem_bytes for r in results}))
    rows.append(f"<dt>guest memory</dt><dd>{sizes or '-'}</dd>")
    return "<h2>Machine and versions</h2>\n<dl>\n" + "\n".join(rows) + "\n</dl>"


def _missing(results: Sequence[CellResult], groups: Sequence[Group]) -> str:
    """Failed cells, cells with problems, figures that no cell has, strategies that a work lacks."""
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
    parts = ["<h2>What is missing</h2>"]
    parts += _list("Cells that failed; they are in no figure:", failed)
    parts += _list("Cells with problems; they count as measured:", troubled)
    parts += _list("Measured with more than one version:", _mixed(results))
    parts += _list("Never measured:", _never(results, groups))
    if len(parts) == 1:
        parts.append("<p>Nothing: every cell was measured, with every figure.</p>")
    return "\n".join(parts)


def _mixed(results: Sequence[CellResult]) -> list[str]:
    """Works, strategies and agents that changed while they were measured: their rounds differ."""
    found: dict[str, set[str]] = {}
    for result in results:
        cell, of = result.cell, result.versions
        found.setdefault(f"work {cell.work}", set()).add(of.get("work", ""))
        found.setdefault(f"strategy {cell.strategy}", set()).add(of.get("strategy", ""))
        if is_own(cell.strategy) and result.vms:
            found.setdefault("giveback's agent", set()).add(of.get("agent", ""))
    return [f"{what}: {len(known)} versions" for what, known in found.items() if len(known) > 1]


def _never(results: Sequence[CellResult], groups: Sequence[Group]) -> list[str]:
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


def _list(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    rows = [f"<li>{escape(safe(item, 400))}</li>" for item in items]
    return [f"<p>{title}</p>", "<ul>", *rows, "</ul>"]
