"""Resident memory over time: the median of the rounds, one line per strategy, its end labelled."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from giveback_kernel.units import MIB
from giveback_lab.bench.analysis.comparable import NONE, OURS
from giveback_lab.bench.analysis.metrics import host_resident, mark
from giveback_lab.bench.analysis.statistics import spread_of
from giveback_lab.bench.analysis.targets import best_by, other_strategies
from giveback_lab.bench.report.figures import HEADING_HEIGHT, NARROW, heading, short, styles
from giveback_lab.bench.report.text import number, setting_text, work_title
from giveback_lab.report.layout import byte_step, time_ticks
from giveback_lab.report.painting import (
    INK,
    LINE,
    MUTED,
    RULE,
    TEXT_SIZE,
    LegendEntry,
    bare_axes,
    draw_legend,
    end_labels,
    font,
    legend_rows,
    new_figure,
    note,
    text_width,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import CellGroup, Measured
    from giveback_lab.bench.report.figures import Style

PLOT_HEIGHT = 300.0
MOST_POINTS = 420
MARK_WORDS = {
    "clean": "clean",
    "drop": "drop_caches",
    "reread": "re-read",
    "event": "event",
}


# For readers who do not know the names.
_TOLD = {
    NONE: "nothing done",
    "reporting": "page reporting alone",
    "wsl-gen2-gradual": "WSL 2's rules of 2026",
    "wsl-gen2-dropcache": "WSL 2's dropcache of 2026",
    "order-0": "every page reported, always",
    "damon-agentenv": "DAMON as AgentENV sets it",
    "damon-reclaim": "DAMON's defaults",
    "kata-eager": "Kata's mem-agent",
    "senpai": "Meta's Senpai",
    "proxmox": "Proxmox's ballooning",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """A strategy's resident bytes at the seconds `t_s`: median, least and greatest round."""

    t_s: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rounds: int


@dataclass(frozen=True, slots=True)
class _Plot:
    """The content of a figure: the curves in their order, each with its style and its end label."""

    group: CellGroup
    curves: dict[str, Curve]
    looks: dict[str, Style]
    needed_bytes: float | None
    start_s: float
    end_s: float


def curves(group: CellGroup, names: Sequence[str]) -> dict[str, Curve]:
    """Return the curves of these strategies, for as long as half of their rounds were measured.

    With one VM, 0 is its workload's end. With several, it is the cell's beginning, and they are
    summed.
    """
    found = {}
    for name in names:
        rounds = [_series(cell) for cell in group.of(name)]
        if not rounds:
            continue
        start_s, end_s = min(r[0][0] for r in rounds), max(r[0][-1] for r in rounds)
        grid = np.arange(np.ceil(start_s), end_s, max(1.0, (end_s - start_s) / MOST_POINTS))
        rows = np.array(
            [np.interp(grid, t_s, size, left=np.nan, right=np.nan) for t_s, size in rounds]
        )
        enough = np.count_nonzero(~np.isnan(rows), axis=0) * 2 >= len(rounds)
        rows, grid = rows[:, enough], grid[enough]
        if grid.size:
            found[name] = Curve(
                grid,
                np.nanmedian(rows, axis=0),
                np.nanmin(rows, axis=0),
                np.nanmax(rows, axis=0),
                len(rounds),
            )
    return found


def _series(cell: Measured) -> tuple[np.ndarray, np.ndarray]:
    points = np.array(host_resident(cell.result.vms), dtype=float)
    return points[:, 0] - _zero_s(cell), points[:, 1]


def _zero_s(cell: Measured) -> float:
    if len(cell.result.vms) > 1:
        return 0.0
    work = mark(cell.result.vms[0], "work")
    return work.end_s if work else 0.0


def resident_figure(group: CellGroup, width: float, *, titled: bool) -> Figure:
    """Draw all strategies: giveback bold, the usual ones and the best other by name, the rest thin."""
    best = best_by(group, other_strategies(group), "footprint_after_gib_min")
    looks = styles(group, best)
    plot = _plot(group, looks)
    ends = {
        name: _end_text(name, float(curve.middle[-1]), width)
        for name, curve in plot.curves.items()
        if looks[name].named
    }
    title = f"{work_title(group.setting.work)}: guest memory resident on the host"
    return _figure(plot, width, ends, title if titled else None)


def telling_figure(group: CellGroup, width: float) -> Figure:
    """Draw the most telling strategies with their footprints: none, reporting, WSL, best other, giveback."""
    wanted = (NONE, "reporting", "wsl-gen2-gradual", OURS)
    names = [name for name in wanted if name in group.strategies]
    if not any(name.startswith("wsl-gen2") for name in names):
        others = sorted(n for n in group.strategies if n.startswith("wsl-gen2"))
        names[-1:-1] = others[:1]
    best = best_by(group, other_strategies(group), "footprint_after_gib_min")
    if names and best is not None and best not in names:
        names[-1:-1] = [best]
    all_looks = styles(group, best)
    plot = _plot(group, {name: all_looks[name] for name in names or group.strategies[:4]})
    ends = {}
    for name in plot.curves:
        of_name = spread_of(group.values(name, "footprint_after_gib_min").values())
        said = "" if of_name is None else f": {number(of_name.median)} GiB min"
        ends[name] = f"{told(name)}{said}"
    after_s = group.after_s[0] if group.after_s else 0.0
    title = f"{work_title(group.setting.work)}, then idle: guest memory resident on the host"
    what = f"At the lines' ends: footprint in the {after_s:.0f} s after the work. "
    return _figure(plot, width, ends, title, what)


def told(name: str) -> str:
    """Return a strategy's description, if it has one, else its name, cut short."""
    return _TOLD.get(name, short(name))


def _plot(group: CellGroup, looks: dict[str, Style]) -> _Plot:
    # Named curves are drawn last, ours last of all.
    order = sorted(looks, key=lambda name: (looks[name].named, name == OURS))
    found = curves(group, order)
    needed = [c.figures.needed_bytes for c in group.cells if c.figures.needed_bytes is not None]
    several = len(group.after_s) > 1
    works = [c.figures.work_s for c in group.cells if c.figures.work_s is not None]
    starts = [float(curve.t_s[0]) for curve in found.values()]
    ends = [float(curve.t_s[-1]) for curve in found.values()]
    usual_s = median(works) if works else 0.0
    start_s = 0.0 if several else max(min(starts, default=0.0), -1.04 * usual_s)
    end_s = max([*ends, start_s + 10.0])
    return _Plot(group, found, looks, median(needed) if needed else None, start_s, end_s)


def _end_text(name: str, size_bytes: float, width: float) -> str:
    size = f"{size_bytes / MIB:.0f}"
    return size if width <= NARROW else f"{short(name)} {size} MiB"


def _figure(
    plot: _Plot, width: float, ends: dict[str, str], title: str | None, more: str = ""
) -> Figure:
    """Draw the plot. `more` is text below the title of a figure whose lines are all labelled.

    Such a figure needs no legend.
    """
    labels = dict(ends)
    if plot.needed_bytes is not None:
        size = f"{plot.needed_bytes / MIB:.0f}"
        labels["needed"] = size if width <= NARROW else f"needed {size} MiB"
    right = max([text_width(text, bold=True) for text in labels.values()], default=0) + 14
    legend = [] if more else _legend(plot, width)
    top = (HEADING_HEIGHT if title else 0.0) + LINE * (len(legend) + 2.3)
    figure = new_figure(width, top + PLOT_HEIGHT + 40)
    axes = bare_axes(figure, (46, top, width - 46 - right, PLOT_HEIGHT))
    top_bytes = _axes(plot, axes, width)
    _marks(plot, axes, width - 46 - right)
    _lines(plot, axes)
    end_labels(axes, _ends(plot, labels), top_bytes, PLOT_HEIGHT)
    draw_legend(figure, legend, (4.0, top - LINE * (len(legend) + 1.5) + 0.3 * TEXT_SIZE))
    if title:
        rounds = plot.group.rounds
        how = f"median of {rounds} rounds, shaded from least to most" if rounds > 1 else "one round"
        heading(figure, title, f"{more}{setting_text(plot.group.setting)}, {how}")
    return figure


def _axes(plot: _Plot, axes: Axes, width: float) -> float:
    most = max((float(curve.high.max()) for curve in plot.curves.values()), default=MIB)
    most = max(most * 1.03, plot.needed_bytes or 0.0, 16 * MIB)
    step = byte_step(int(most), 8)
    ticks = np.arange(0, most + step, step)
    axes.set_xlim(plot.start_s, plot.end_s)
    axes.set_ylim(0, float(ticks[-1]))
    axes.set_yticks(ticks, [f"{tick / MIB:.0f}" for tick in ticks])
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    seconds = time_ticks(plot.start_s, plot.end_s, 5 if width <= NARROW else 10)
    axes.set_xticks(seconds, [str(t_s).replace("-", "\u2212") for t_s in seconds])
    since = "the first VM's work began" if len(plot.group.after_s) > 1 else "the work's end"
    axes.set_xlabel(f"seconds since {since}", fontproperties=font(), color=MUTED)
    note(axes, (0, 1), (-8, 10), "MiB", ha="right", color=MUTED)
    return float(ticks[-1])


def _marks(plot: _Plot, axes: Axes, plot_width: float) -> None:
    """Draw a line at the workload's end and at each later request, labelled if the label fits."""
    free_from = -1e9
    for t_s, name in _moments(plot):
        axes.axvline(t_s, color=MUTED, linewidth=0.8, dashes=(3, 2.5), zorder=1.5)
        x = plot_width * (t_s - plot.start_s) / (plot.end_s - plot.start_s)
        wide = text_width(name)
        left = min(max(0.0, x - wide / 2), plot_width - wide)
        if left < free_from:
            left = x + 3 if x + 3 >= free_from and x + 3 + wide <= plot_width else -1.0
        if left >= 0:
            note(axes, (0, 1), (left, 10), name, color=MUTED)
            free_from = left + wide + 8


def _moments(plot: _Plot) -> list[tuple[float, str]]:
    if len(plot.group.after_s) > 1:
        return _work_ends(plot)
    found: dict[str, list[float]] = {}
    for cell in plot.group.cells:
        for one in cell.result.vms[0].marks:
            if one.name in MARK_WORDS:
                found.setdefault(MARK_WORDS[one.name], []).append(one.begin_s - _zero_s(cell))
    named = [(median(times), name) for name, times in found.items()]
    return sorted([(0.0, "work ends"), *named])


def _work_ends(plot: _Plot) -> list[tuple[float, str]]:
    """Return when each of several VMs' workloads ended; those that ended together are one."""
    ends: dict[str, list[float]] = {}
    for cell in plot.group.cells:
        for vm in cell.result.vms:
            work = mark(vm, "work")
            if work is not None:
                ends.setdefault(vm.name, []).append(work.end_s)
    moments: list[tuple[float, str]] = []
    for name, times in sorted(ends.items(), key=lambda item: median(item[1])):
        t_s = median(times)
        if moments and t_s - moments[-1][0] < 0.03 * (plot.end_s - plot.start_s):
            moments[-1] = (moments[-1][0], "all end" if len(ends) == 3 else "several end")
        else:
            moments.append((t_s, f"{short(name)}'s work ends"))
    return moments


def _lines(plot: _Plot, axes: Axes) -> None:
    if plot.needed_bytes is not None:
        axes.axhline(plot.needed_bytes, color=INK, linewidth=1.3, dashes=(1, 2), zorder=2)
    for order, (name, curve) in enumerate(plot.curves.items()):
        look, zorder = plot.looks[name], 3 + order / 100
        if look.named and curve.rounds > 1:
            axes.fill_between(
                curve.t_s, curve.low, curve.high, color=look.colour, alpha=0.15, linewidth=0,
                zorder=zorder - 0.5,
            )  # fmt: skip
        axes.plot(
            curve.t_s, curve.middle, zorder=zorder, solid_joinstyle="round",
            alpha=1.0 if look.named else 0.75, **look.line(),
        )  # fmt: skip
    if not plot.curves:
        middle = ((plot.start_s + plot.end_s) / 2, 8 * MIB)
        words(axes, middle, "nothing was measured", color=MUTED, ha="center")


def _ends(plot: _Plot, labels: dict[str, str]) -> list[tuple[str, float, str, bool]]:
    found = []
    for name, text in labels.items():
        if name == "needed":
            found.append((text, plot.needed_bytes or 0.0, INK, False))
        elif name in plot.curves:
            size_bytes = float(plot.curves[name].middle[-1])
            found.append((text, size_bytes, plot.looks[name].colour, name == OURS))
    return found


def _legend(plot: _Plot, width: float) -> list[list[LegendEntry]]:
    """Return the legend: ours first, the others counted."""
    named = [name for name in reversed(plot.curves) if plot.looks[name].named]
    entries = [LegendEntry(short(name), plot.looks[name].line()) for name in named]
    if plot.needed_bytes is not None:
        look = {"color": INK, "linewidth": 1.3, "dashes": (1, 2)}
        entries.append(LegendEntry("needed after the work", look))
    others = [name for name in plot.curves if not plot.looks[name].named]
    if others:
        several = f"{len(others)} others" if len(others) > 1 else short(others[0])
        entries.append(LegendEntry(several, plot.looks[others[0]].line()))
    return legend_rows(entries, width)
