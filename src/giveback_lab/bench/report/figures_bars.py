"""Each strategy's footprint and residue as bars, and bytes freed against cost to the workload as points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_kernel.units import MIB
from giveback_lab.bench.analysis.comparable import OURS, is_own
from giveback_lab.bench.analysis.statistics import spread_of
from giveback_lab.bench.analysis.targets import best_by, harm, other_strategies
from giveback_lab.bench.report.figures import (
    HEADING_HEIGHT,
    NARROW,
    OTHER,
    OURS_COLOUR,
    heading,
    short,
    styles,
)
from giveback_lab.bench.report.text import HURTS, METRICS, number, setting_text, work_title
from giveback_lab.report.painting import (
    INK,
    MUTED,
    RULE,
    TEXT_SIZE,
    axes_size,
    bare_axes,
    font,
    label_text,
    new_figure,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import CellGroup
    from giveback_lab.bench.analysis.statistics import Spread
    from giveback_lab.bench.report.figures import Style

ROW = 17.0
AXIS_HEIGHT = 40.0
PANEL_GAP = 28.0
SCATTER_HEIGHT = 300.0
RESIDUE_MARKS = (
    ("residue_idle_bytes", "after idle"),
    ("residue_cleaned_bytes", "after clean"),
    ("residue_dropped_bytes", "after drop"),
)


@dataclass(frozen=True, slots=True)
class _Panel:
    """The bars of one figure."""

    title: str
    unit: str
    field: str
    scale: float


def bars_figure(group: CellGroup, width: float, *, titled: bool) -> Figure:
    """Draw footprint and residue, the least footprint first; whiskers span all rounds."""
    names = _by_footprint(group)
    panels = _panels(group, width)
    narrow = width <= NARROW
    left = max([text_width(_name(group, name), bold=True) for name in names], default=40.0) + 10
    top = (HEADING_HEIGHT if titled else 0.0) + 26
    high = max(ROW * len(names), ROW)
    stacked = len(panels) if narrow else 1
    figure = new_figure(width, top + stacked * (high + AXIS_HEIGHT) + (stacked - 1) * 26)
    columns = 1 if narrow else len(panels)
    wide = (width - left - PANEL_GAP * (columns - 1)) / columns
    for index, panel in enumerate(panels):
        row, column = (index, 0) if narrow else (0, index)
        x = left + column * (wide + PANEL_GAP)
        y = top + row * (high + AXIS_HEIGHT + 26)
        axes = bare_axes(figure, (x, y, wide - 46, high))
        _bars(group, panel, names, axes, named=column == 0)
    if titled:
        how = "whiskers from least to most" if group.rounds > 1 else "one round"
        title = f"{work_title(group.setting.work)}: held after the workload, and of it free in the guest"
        heading(figure, title, f"{setting_text(group.setting)}, {_rounds(group)}; {how}")
    return figure


def _rounds(group: CellGroup) -> str:
    return f"median of {group.rounds} rounds" if group.rounds > 1 else "one round"


def _by_footprint(group: CellGroup) -> list[str]:
    known = [
        (spread.median, name)
        for name in group.strategies
        if (spread := _spread(group, name, "footprint_after_gib_min"))
    ]
    return [name for _, name in sorted(known)]


def _spread(group: CellGroup, name: str, field: str) -> Spread | None:
    return spread_of(group.values(name, field).values())


def _name(group: CellGroup, name: str) -> str:
    return f"{short(name)} {HURTS}" if harm(group, name) else short(name)


def _panels(group: CellGroup, width: float) -> list[_Panel]:
    after_s = group.after_s[0] if group.after_s else 0.0
    footprint = f"footprint, {after_s:.0f} s"
    panels = [_Panel(footprint, "GiB min", "footprint_after_gib_min", 1.0)]
    marks = [(f, t) for f, t in RESIDUE_MARKS if any(group.values(n, f) for n in group.strategies)]
    if width <= NARROW:
        marks = marks[:1]
    return [*panels, *(_Panel(f"residue {title}", "MiB", field, MIB) for field, title in marks)]


def _bars(group: CellGroup, panel: _Panel, names: list[str], axes: Axes, *, named: bool) -> None:
    wide = axes_size(axes)[0]
    best = best_by(group, other_strategies(group), "footprint_after_gib_min")
    looks = styles(group, best)
    ends = [_bar(group, panel, (row, name), looks[name], axes) for row, name in enumerate(names)]
    top = max([*ends, 1e-6])
    axes.set_xlim(0, top * 1.02)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.locator_params(axis="x", nbins=max(2, int(wide / 60)))
    axes.set_title(label_text(panel.title), loc="left", fontproperties=font(bold=True), color=INK)
    axes.set_xlabel(panel.unit, fontproperties=font(), color=MUTED)
    if named:
        labels = [label_text(_name(group, name)) for name in names]
        axes.set_yticks(range(len(names)), labels)
        for label, name in zip(axes.get_yticklabels(), names, strict=True):
            label.set_parse_math(False)
            label.set_color(looks[name].colour if looks[name].named else INK)
            label.set_fontweight("bold" if name == OURS else "normal")
    else:
        axes.set_yticks([])


def _bar(group: CellGroup, panel: _Panel, place: tuple[int, str], look: Style, axes: Axes) -> float:
    """Draw one bar; return how far it reaches."""
    row, name = place
    spread = _spread(group, name, panel.field)
    if spread is None:
        axes.annotate(
            "not measured", (0, row), xytext=(4, 0), textcoords="offset points", va="center",
            fontproperties=font(9.0), color=MUTED,
        )  # fmt: skip
        return 0.0
    middle, low, high = (v / panel.scale for v in (spread.median, spread.low, spread.high))
    colour, alpha = _fill(name, look)
    axes.barh(row, middle, height=0.68, color=colour, alpha=alpha, linewidth=0)
    if spread.is_known:
        axes.plot([low, high], [row, row], color=INK, linewidth=1.1, zorder=4)
    text = number(middle) if panel.scale == 1.0 else f"{middle:.0f}"
    axes.annotate(
        text, (high, row), xytext=(6, 0), textcoords="offset points", va="center",
        fontproperties=font(bold=name == OURS), color=INK, annotation_clip=False,
    )  # fmt: skip
    return high


def _fill(name: str, look: Style) -> tuple[str, float]:
    """Return the colour and opacity of a bar; a part of giveback has its colour, lighter."""
    if is_own(name) and name != OURS:
        return OURS_COLOUR, 0.45
    return (look.colour, 1.0) if look.named else (OTHER, 0.8)


# Cost against footprint


@dataclass(frozen=True, slots=True)
class _Point:
    x: float
    y: float
    x_low: float
    x_high: float
    name: str


def scatter_figure(group: CellGroup, width: float, *, titled: bool) -> Figure | None:
    """Draw footprint against the cost to the workload: slowdown and, with a hot set, slower re-read.

    Return None if neither was measured, because no round has `none`.
    """
    panels = [
        (field, title)
        for field, title in (
            ("slow_ratio", "slowdown of the work, %"),
            ("reread_ratio", "re-read, times that of none"),
        )
        if _points(group, field)
    ]
    if not panels:
        return None
    narrow = width <= NARROW
    top = (HEADING_HEIGHT if titled else 0.0) + 22
    rows = len(panels) if narrow else 1
    figure = new_figure(width, top + rows * (SCATTER_HEIGHT + 48) + (rows - 1) * 10)
    columns = 1 if narrow else len(panels)
    wide = (width - 46) / columns
    for index, (field, title) in enumerate(panels):
        row, column = (index, 0) if narrow else (0, index)
        box = (46 + column * wide, top + row * (SCATTER_HEIGHT + 58), wide - 30, SCATTER_HEIGHT)
        _scatter(group, field, title, bare_axes(figure, box))
    if titled:
        title = f"{work_title(group.setting.work)}: cost against gain"
        told = "best: bottom left; whiskers from the least to the most round"
        heading(figure, title, f"{setting_text(group.setting)}; {told}")
    return figure


def _points(group: CellGroup, field: str) -> list[_Point]:
    found = []
    for name in group.strategies:
        x, y = _spread(group, name, field), _spread(group, name, "footprint_after_gib_min")
        if x is not None and y is not None:
            values = [_cost(field, v) for v in (x.median, x.low, x.high)]
            found.append(_Point(values[0], y.median, values[1], values[2], name))
    return found


def _cost(field: str, ratio: float) -> float:
    return 100 * (ratio - 1) if METRICS[field].field == "slow_ratio" else ratio


def _scatter(group: CellGroup, field: str, title: str, axes: Axes) -> None:
    points = _points(group, field)
    looks = styles(group, best_by(group, other_strategies(group), "footprint_after_gib_min"))
    bounds = _bounds(points, field)
    axes.set_xlim(*bounds)
    axes.set_ylim(0, 1.08 * max(point.y for point in points) + 1e-9)
    axes.grid(color=RULE, linewidth=0.7)
    axes.locator_params(nbins=6)
    axes.axvline(0.0 if field == "slow_ratio" else 1.0, color=MUTED, linewidth=1.0, dashes=(3, 2.5))
    for point in points:
        look = looks[point.name]
        colour, alpha = _fill(point.name, look)
        x, low, high = (
            min(max(v, bounds[0]), bounds[1]) for v in (point.x, point.x_low, point.x_high)
        )
        axes.plot([low, high], [point.y] * 2, color=colour, linewidth=1.0, alpha=0.7 * alpha)
        axes.plot(
            [x], [point.y], marker=look.marker, markersize=9 if look.named else 5.5, color=colour,
            alpha=alpha, markeredgecolor="#ffffff", markeredgewidth=0.8, linestyle="none",
            zorder=5 if look.named else 4,
        )  # fmt: skip
    axes.set_title(
        "footprint after the work, GiB min", loc="left", fontproperties=font(), color=MUTED
    )
    axes.set_xlabel(label_text(title), fontproperties=font(), color=MUTED)
    _label(points, looks, axes)


def _bounds(points: Sequence[_Point], field: str) -> tuple[float, float]:
    """Return the range of all whiskers, at least so wide that noise does not look like a finding."""
    neutral, least = (0.0, 2.0) if field == "slow_ratio" else (1.0, 0.1)
    low = min([neutral - least / 2, *(p.x_low for p in points)])
    high = max([neutral + least, *(p.x_high for p in points)])
    margin = 0.04 * (high - low)
    return low - margin, high + 4 * margin


_Box = tuple[float, float, float, float]


def _label(points: Sequence[_Point], looks: dict[str, Style], axes: Axes) -> None:
    """Label the points, the important first, each where nothing is covered; the rest stay bare."""
    wide, high = axes_size(axes)
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    spots = {p.name: ((p.x - x0) / (x1 - x0) * wide, (p.y - y0) / (y1 - y0) * high) for p in points}
    taken: list[_Box] = [
        (x - 4, y - 4, x + 4, y + 4) for n, (x, y) in spots.items() if looks[n].named
    ]
    reaches = {
        p.name: ((p.x_low - x0) / (x1 - x0) * wide, (p.x_high - x0) / (x1 - x0) * wide)
        for p in points
    }
    whiskers = [(reaches[n][0], y - 1.5, reaches[n][1], y + 1.5) for n, (_, y) in spots.items()]
    # A named point may cover these rather than stay without its name.
    less = whiskers + [
        (x - 4, y - 4, x + 4, y + 4) for n, (x, y) in spots.items() if not looks[n].named
    ]
    order = sorted(points, key=lambda p: (p.name != OURS, not looks[p.name].named, p.y))
    for point in order:
        look = looks[point.name]
        size = TEXT_SIZE if look.named else 8.5
        length, tall = text_width(short(point.name), size, bold=point.name == OURS), 0.9 * size
        places = _around(spots[point.name], reaches[point.name], length, tall)
        for left, bottom, lines in [(*at, less) for at in places] + [
            (*at, []) for at in places if look.named
        ]:
            box = (left - 1, bottom - 1, left + length + 1, bottom + tall + 1)
            inside = box[0] >= 0 and box[2] <= wide + 28 and box[1] >= 0 and box[3] <= high
            if inside and not any(_overlap(box, other) for other in (*taken, *lines)):
                taken.append(box)
                _name_at(axes, point.name, (left, bottom + tall / 2), look)
                break


def _name_at(axes: Axes, name: str, at: tuple[float, float], look: Style) -> None:
    axes.annotate(
        label_text(short(name)), (0, 0), xytext=at, xycoords="axes fraction", textcoords="offset points",
        va="center", parse_math=False, color=look.colour if look.named else MUTED,
        fontproperties=font(TEXT_SIZE if look.named else 8.5, bold=name == OURS),
        annotation_clip=False,
    )  # fmt: skip


def _around(
    at: tuple[float, float], whisker: tuple[float, float], length: float, tall: float
) -> list[tuple[float, float]]:
    """Return where a label may go: right or left of the whisker, above, below, a little further."""
    x, y = at
    right, left = max(x + 7, whisker[1] + 4), min(x - 7, whisker[0] - 4) - length
    level, middle = y - tall / 2, x - length / 2
    near = [(right, level), (left, level), (middle, y + 6), (middle, y - 6 - tall)]
    near += [(right, level + d) for d in (8, -8, 14, -14)]
    return near + [(left, level + d) for d in (8, -8, 14, -14)]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
