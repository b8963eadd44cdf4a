"""Write the report of a benchmark: one page, its figures as PNG and SVG, and everything as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.analysis.comparable import OURS, current, groups
from giveback_lab.bench.analysis.statistics import spread_of
from giveback_lab.bench.analysis.targets import Verdict, best_by, findings, other_strategies
from giveback_lab.bench.report.markdown import markdown
from giveback_lab.bench.report.tables import (
    cells_csv,
    gzipped,
    results_json,
    samples_csv,
    write_bytes,
    write_text,
)
from giveback_lab.bench.report.text import (
    counted,
    figure_text,
    group_title,
    headline,
    ordered,
    strategy_title,
    with_unit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import CellGroup
    from giveback_lab.bench.model import CellResult

MOST_TELLING = ("files", "build", "database", "editor", "hogs")
"""The most representative workloads; of those with equally many strategies the first is shown."""


def write_report(
    results: Sequence[CellResult], out: Path, command: str | None = None
) -> list[Path]:
    """Write report.html, report.md, results.json, cells.csv, samples.csv.gz and the figures into `out`.

    `command` made the results; by default it is derived from them. Results of a benchmark that was
    stopped, or with failed cells, are reported as far as they go. The same results make the same
    bytes. Raises InputError if `out` cannot be written.
    """
    # matplotlib takes 1 s to import, and the summary does not need it.
    from giveback_lab.bench.report.page import render_page  # noqa: PLC0415
    from giveback_lab.report.html import write_page  # noqa: PLC0415

    results = ordered(results)
    all_groups = groups(results)
    results = current(results)
    all_findings = findings(all_groups)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}: name a folder that can be written") from error
    page = render_page(results, all_groups, all_findings, command)
    return [
        write_page(page, out / "report.html"),
        write_text(out / "report.md", markdown(all_groups, all_findings)),
        write_text(out / "results.json", results_json(results, all_groups, all_findings, command)),
        write_text(out / "cells.csv", cells_csv(all_groups)),
        write_bytes(out / "samples.csv.gz", gzipped(samples_csv(results))),
        *_write_figures(all_groups, out / "figures"),
    ]


def telling_figure(results: Sequence[CellResult], path: Path) -> None:
    """Write the most telling figure, as PNG or, by the path's suffix, as SVG.

    It shows resident memory over time with none, reporting alone, WSL gen 2, the best other and
    giveback, on the most telling workload. Raises InputError without one, or if the folder does not
    exist.
    """
    from giveback.reporters.charts.picture import write_picture  # noqa: PLC0415
    from giveback_lab.bench.report import figures, figures_time  # noqa: PLC0415

    group = most_telling(groups(ordered(results)))
    if group is None:
        raise InputError(f"{path}: no workload was measured: run giveback bench first")
    figure = figures_time.telling_figure(group, figures.WIDE)
    kind = "svg" if path.suffix.lower() == ".svg" else "png"
    write_picture(figure, path, kind, group_title(group, [group]))


def most_telling(all_groups: Sequence[CellGroup]) -> CellGroup | None:
    """Return the group with the most strategies, then the first by MOST_TELLING, then by setting."""
    found = [group for group in all_groups if group.cells]
    order = {work: rank for rank, work in enumerate(MOST_TELLING)}

    def rank(group: CellGroup) -> tuple[int, int]:
        return -len(group.strategies), order.get(group.setting.work, len(order))

    return min(found, key=rank, default=None)


def summary(results: Sequence[CellResult]) -> str:
    """Return the results for a terminal: the verdicts, each workload in a line, and the missed targets."""
    all_groups = groups(ordered(results))
    all_findings = findings(all_groups)
    lines = [f"{headline(all_findings)}.", ""]
    lines += [_work_line(group, all_groups) for group in all_groups]
    for verdict in (Verdict.MISSED, Verdict.IN_NOISE):
        if counted(all_findings)[verdict]:
            lines += ["", f"{verdict.capitalize()}:"]
        for finding in all_findings:
            if finding.counts and finding.verdict is verdict:
                against = escape_for_terminal(finding.against or "", 60)
                said = figure_text(finding).replace("\u00a0", " ")
                target = f"{finding.target.title} (at most {finding.target.limit:g} \u00d7)"
                words = "; ".join(
                    filter(None, (said, against, escape_for_terminal(finding.remark, 200)))
                )
                lines.append(
                    f"  {escape_for_terminal(finding.setting.work, 60)}: {target}: {words}"
                )
    failed = [one for group in all_groups for one in group.failed]
    if failed:
        lines += ["", f"Failed cells: {len(failed)}"]
        lines += [
            f"  {escape_for_terminal(one.cell.key, 200)}: {escape_for_terminal('; '.join(one.reasons), 200)}"
            for one in failed[:20]
        ]
    return "\n".join(lines) + "\n"


def _work_line(group: CellGroup, all_groups: Sequence[CellGroup]) -> str:
    title = group_title(group, all_groups)
    field = "footprint_after_gib_min"
    parts = []
    best = best_by(group, other_strategies(group), field)
    for name in dict.fromkeys((OURS, best, "reporting", "none")):
        spread = None if name is None else spread_of(group.values(name, field).values())
        if name is not None and spread is not None:
            size = with_unit(spread.median, "GiB min").replace("\u00a0", " ")
            parts.append(
                f"{escape_for_terminal(strategy_title(name) if name == OURS else name, 60)} {size}"
            )
    told = ", ".join(parts) if parts else "nothing was measured"
    return f"{title}: footprint after the work: {told}"


def _write_figures(all_groups: Sequence[CellGroup], folder: Path) -> list[Path]:
    from giveback.reporters.charts.picture import write_picture  # noqa: PLC0415
    from giveback_lab.bench.report import figures, figures_bars  # noqa: PLC0415
    from giveback_lab.bench.report import figures_time as over_time  # noqa: PLC0415

    wide = figures.WIDE
    written: list[Path] = []
    for group in all_groups:
        if not group.cells:
            continue
        drawn: dict[str, Figure | None] = {
            "resident": over_time.resident_figure(group, wide, titled=True),
            "held": figures_bars.bars_figure(group, wide, titled=True),
            "cost": figures_bars.scatter_figure(group, wide, titled=True),
        }
        if group is most_telling(all_groups):
            drawn["telling"] = over_time.telling_figure(group, wide)
        for name, figure in drawn.items():
            if figure is not None:
                title = group_title(group, all_groups)
                for kind in ("png", "svg"):
                    path = folder / f"{group.setting.safe_key}-{name}.{kind}"
                    written.append(write_picture(figure, path, kind, title))
    return written
