"""The chart of a run, drawn once with matplotlib: for a PNG, an SVG, and at three widths for the page.

From the top: title, legend, names of the workload's phases, the plot, a row for each kind of the
agent's actions, the time axis. Sizes are in points. matplotlib takes 1 s to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from giveback.reporters.charts.picture import write_picture
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import MIB
from giveback_lab.report.layout import (
    GIVEBACK_COLOUR,
    PLAIN_COLOUR,
    byte_ticks,
    pack,
    phases,
    run_actions,
    span,
    time_ticks,
    work_end_s,
)
from giveback_lab.report.painting import (
    INK,
    LINE,
    MUTED,
    PAPER,
    RULE,
    TEXT_SIZE,
    LegendEntry,
    axes_size,
    bare_axes,
    draw_legend,
    end_labels,
    font,
    label_text,
    legend_rows,
    new_figure,
    note,
    size_of,
    text_width,
    words,
)
from giveback_lab.report.run import MARK_KINDS
from giveback_lab.report.words import KIND_WORDS, headline, mib_text, setting_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from giveback_lab.report.layout import ChartAction, LabelSpan
    from giveback_lab.report.run import DemoRun, MarkKind, VmName

WIDTH, HEIGHT = 900.0, 300.0
"""Of the plot in a file, in points."""
NARROW = 600.0
PAD = 11.0
TITLE_SIZE = 15.5
ROW = 14.5
SHORTEST_BOOT_S = 3.0
SAME_NEED = 0.03

BAND = "#f1f2f4"
INKS: dict[VmName, str] = {"plain": "#a84900", "giveback": "#005a8e"}
"""Colours of texts: darker than the curves."""
COLOURS: dict[VmName, str] = {"plain": PLAIN_COLOUR, "giveback": GIVEBACK_COLOUR}
CSS_NAMES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "page",
    BAND: "band",
    **{colour.lower(): name for name, colour in COLOURS.items()},
    **{colour: f"{name}-ink" for name, colour in INKS.items()},
}
"""The page's style sheet names for the colours."""
MARKERS: dict[MarkKind, str] = {
    "reclaim": "v",
    "compact": "s",
    "report": "o",
    "deep": "D",
    "restore": "^",
}
LOOKS: dict[VmName, dict[str, Any]] = {
    "plain": {"color": PLAIN_COLOUR, "linewidth": 2.2, "dashes": (3, 1.2)},
    "giveback": {"color": GIVEBACK_COLOUR, "linewidth": 2.6},
}
NEEDED: dict[str, Any] = {"color": INK, "linewidth": 1.4, "dashes": (1, 2)}
_WORK_END: dict[str, Any] = {"color": INK, "linewidth": 0.9, "dashes": (4, 3)}


def write_png(run: DemoRun, path: Path) -> None:
    """Write the chart as PNG. Raises InputError if `path` cannot be written."""
    write_picture(run_figure(run, WIDTH, HEIGHT, titled=True), path, "png", headline(run))


def write_svg(run: DemoRun, path: Path) -> None:
    """Write the chart as SVG. Raises InputError if `path` cannot be written."""
    write_picture(run_figure(run, WIDTH, HEIGHT, titled=True), path, "svg", headline(run))


@dataclass(frozen=True, slots=True)
class _Chart:
    """A run with the values that all its parts share: the axes' span, the actions in rows, the names."""

    run: DemoRun
    width: float
    height: float
    span: LabelSpan
    actions: list[ChartAction]
    kinds: list[MarkKind]

    @property
    def narrow(self) -> bool:
        return self.width < NARROW

    def ends(self) -> list[tuple[str, float, str, bool]]:
        """Return the labels right of the plot: text, size in bytes, colour, bold."""
        vms = [(vm.name, vm.samples[-1].resident_bytes) for vm in self.run.vms if vm.samples]
        found = [(self._end(name, size), float(size), INKS[name], True) for name, size in vms]
        needs = [(self._end("needed", size), float(size), INK, False) for _, size in self.needs()]
        return found + needs

    def _end(self, name: str, size_bytes: int) -> str:
        return mib_text(size_bytes) if self.narrow else f"{name} {mib_text(size_bytes)}"

    def needs(self) -> list[tuple[float, int]]:
        """Return from when each VM needs how many bytes; one entry for both if they need about the same."""
        known = [
            (vm.work_end_s, vm.needed_bytes)
            for vm in self.run.vms
            if vm.work_end_s is not None and vm.needed_bytes is not None
        ]
        sizes = [size for _, size in known]
        if len(known) > 1 and max(sizes) - min(sizes) <= SAME_NEED * self.span.top_bytes:
            return [(min(t_s for t_s, _ in known), max(sizes))]
        return known

    def ticks(self) -> list[str]:
        """Return the labels left of the plot: sizes, the uppermost with its unit."""
        sizes = byte_ticks(self.span)
        return [*(str(size // MIB) for size in sizes[:-1]), mib_text(sizes[-1])]

    def kind_names(self) -> list[str]:
        return [str(kind) if self.narrow else KIND_WORDS[kind] for kind in self.kinds]

    def moments(self) -> list[tuple[float, str, str]]:
        """Return the names above the plot with their time and colour: the important and the long first."""
        end_s, start_s = work_end_s(self.run), self.span.start_s
        named = [] if end_s is None else [(end_s, "work ends", INK)]
        if start_s < -SHORTEST_BOOT_S:
            named.append((start_s / 2, "boot", MUTED))
        told = [
            (p.start_s, p.end_s or p.start_s, p.name) for p in phases(self.run, self.span.end_s)
        ]
        for begin_s, last_s, name in sorted(told, key=lambda part: part[0] - part[1]):
            named.append(((begin_s + last_s) / 2, escape_for_terminal(name, 24), MUTED))
        return named


def run_figure(run: DemoRun, width: float, height: float, *, titled: bool) -> Figure:
    """Return the chart, `width` wide and as high as it needs to be; its plot is `height` high.

    `figure.axes[0]` is the plot: seconds and bytes.
    """
    whole = span(run, most_byte_ticks=8)
    actions = run_actions(run, (whole.end_s - whole.start_s) / 40)
    kinds = [kind for kind in MARK_KINDS if any(action.kind == kind for action in actions)]
    chart = _Chart(run, width, height, whole, actions, kinds)
    pad = PAD if titled else 2.0
    left = pad + 8 + max(text_width(text) for text in (*chart.ticks(), *chart.kind_names()))
    right = 8 + pad + max([text_width(text, bold=True) for text, *_ in chart.ends()], default=0)
    plot_width = max(40.0, width - left - right)
    titles = _titles(run, width - 2 * pad) if titled else []
    names = _placed_names(chart, plot_width)
    legend = _legend(chart, width - 2 * pad)
    lanes = max((lane + 1 for _, _, lane, _, _ in names), default=1)
    legend_top = pad + sum(high for *_, high in titles)
    top = legend_top + LINE * (len(legend) + lanes) + 12
    rows = 6 + ROW * len(kinds) if kinds else 0.0
    figure = new_figure(width, top + height + rows + 2.6 * LINE + pad)
    _write_titles(figure, titles, pad)
    draw_legend(figure, legend, (pad, legend_top + LINE / 2))
    plot = bare_axes(figure, (left, top, plot_width, height))
    _axes(chart, plot)
    _bands_and_names(chart, plot, names)
    _curves(chart, plot)
    end_labels(plot, chart.ends(), whole.top_bytes, height)
    _peaks(chart, plot)
    bottom = plot
    if kinds:
        bottom = bare_axes(figure, (left, top + height, plot_width, rows))
        plot.set_xticks([])
        _action_rows(chart, bottom, right - 8 - pad)
    _time_axis(chart, bottom, plot_width)
    return figure


# Above the plot


def _titles(run: DemoRun, room: float) -> list[tuple[str, float, bool, float]]:
    """Return the lines of the title and of the text below it: (text, size, bold, height) each."""
    lines = [
        (line, TITLE_SIZE, True, 1.35 * TITLE_SIZE)
        for line in _wrapped(headline(run), TITLE_SIZE, room, bold=True)
    ]
    about = f"Guest memory resident on the host. {setting_text(run)}"
    lines += [(line, TEXT_SIZE, False, LINE) for line in _wrapped(about, TEXT_SIZE, room)]
    return [*lines, ("", TEXT_SIZE, False, 0.6 * LINE)]


def _wrapped(text: str, size: float, room: float, *, bold: bool = False) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size, bold=bold) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write_titles(figure: Figure, titles: list[tuple[str, float, bool, float]], pad: float) -> None:
    width, height = size_of(figure)
    down = pad
    for text, size, bold, high in titles:
        down += high
        place, colour = (pad / width, 1 - (down - 0.3 * size) / height), INK if bold else MUTED
        figure.text(
            *place, label_text(text), fontproperties=font(size, bold=bold), color=colour,
            parse_math=False,
        )  # fmt: skip


def _legend(chart: _Chart, room: float) -> list[list[LegendEntry]]:
    entries = []
    for vm in chart.run.vms:
        about = escape_for_terminal(vm.description, 60)
        text = f"{vm.name}: {about}" if about and not chart.narrow else vm.name
        entries.append(LegendEntry(text, LOOKS[vm.name]))
    if chart.needs():
        text = "needed" if chart.narrow else "what the work still needs"
        entries.append(LegendEntry(text, NEEDED))
    return legend_rows(entries, room)


def _placed_names(chart: _Chart, plot_width: float) -> list[tuple[float, float, int, str, str]]:
    """Return the names above the plot that have room: (x, left, lane, text, colour) each."""
    moments = chart.moments()
    wanted = [(chart.span.x(t_s) * plot_width, text_width(name)) for t_s, name, _ in moments]
    spots = pack(wanted, plot_width, most_lanes=2 if chart.narrow else 3, gap=7)
    return [
        (x, spot[1], spot[0], name, colour)
        for (x, _), spot, (_, name, colour) in zip(wanted, spots, moments, strict=True)
        if spot
    ]


def _bands_and_names(
    chart: _Chart, plot: Axes, names: list[tuple[float, float, int, str, str]]
) -> None:
    for phase in phases(chart.run, chart.span.end_s)[::2]:
        plot.axvspan(phase.start_s, phase.end_s or 0.0, color=BAND, linewidth=0, zorder=0.1)
    wide, high = axes_size(plot)
    for x, left, lane, name, colour in names:
        note(plot, (0, 1), (left, 7 + LINE * lane), name, color=colour)
        below = [(a, a + text_width(text)) for _, a, other, text, _ in names if other < lane]
        if lane and not any(a - 2 <= x <= b + 2 for a, b in below):
            top = 1 + (4 + LINE * lane) / high
            leader = Line2D([x / wide] * 2, [1, top], color=RULE, linewidth=0.7, clip_on=False)
            leader.set_transform(plot.transAxes)
            plot.add_artist(leader)


# The plot


def _axes(chart: _Chart, plot: Axes) -> None:
    plot.set_xlim(chart.span.start_s, chart.span.end_s)
    plot.set_ylim(0, chart.span.top_bytes)
    plot.set_yticks(byte_ticks(chart.span), chart.ticks())
    plot.grid(axis="y", color=RULE, linewidth=0.7)
    end_s = work_end_s(chart.run)
    if end_s is not None:
        plot.axvline(end_s, **_WORK_END)


def _curves(chart: _Chart, plot: Axes) -> None:
    end_s = chart.span.end_s
    for start_s, need_bytes in chart.needs():
        plot.plot([start_s, end_s], [need_bytes] * 2, **NEEDED)
    # The plain VM's dashes are drawn last: while both grow alike, both can be seen.
    for order, vm in enumerate(sorted(chart.run.vms, key=lambda vm: vm.name)):
        if vm.samples:
            times = [sample.t_s for sample in vm.samples]
            sizes = [sample.resident_bytes for sample in vm.samples]
            if vm.name == "giveback":
                colour = COLOURS[vm.name]
                plot.fill_between(times, sizes, color=colour, alpha=0.14, linewidth=0, zorder=1)
            plot.plot(times, sizes, solid_joinstyle="round", zorder=3 + order, **LOOKS[vm.name])
            plot.plot([times[-1], end_s], [sizes[-1]] * 2, color=RULE, linewidth=0.7, zorder=1.5)
    if not any(vm.samples for vm in chart.run.vms):
        middle = ((chart.span.start_s + end_s) / 2, chart.span.top_bytes / 2)
        words(plot, middle, "no samples", color=MUTED, ha="center")


def _peaks(chart: _Chart, plot: Axes) -> None:
    """Mark each VM's peak, and label it where the label covers nothing, if there is such a place."""
    curves = [line.get_transform().transform_path(line.get_path()) for line in plot.get_lines()]
    taken: list[Bbox] = []
    for vm in chart.run.vms:
        most = max((sample.resident_bytes for sample in vm.samples), default=0)
        # Where the peak was first reached, within the noise that later samples add to it.
        peak = next((s for s in vm.samples if s.resident_bytes >= 0.99 * most), None)
        if peak is None:
            continue
        at = (peak.t_s, peak.resident_bytes)
        plot.plot(*at, "o", color=COLOURS[vm.name], markersize=6.5, markeredgecolor=PAPER, zorder=6)
        text = f"peak {mib_text(most)}"
        for dx, dy in _around(text_width(text, bold=True)):
            x, y = plot.transData.transform(at)
            box = _box(x + dx, y + dy, text)
            inside = plot.bbox.containsx(box.x0) and plot.bbox.containsx(box.x1)
            inside = inside and plot.bbox.containsy(box.y0) and plot.bbox.containsy(box.y1)
            covers = any(curve.intersects_bbox(box, filled=False) for curve in curves)
            if inside and not covers and not any(box.overlaps(other) for other in taken):
                plot.annotate(
                    text, at, (dx, dy), textcoords="offset points", va="center", zorder=7,
                    fontproperties=font(bold=True), color=INKS[vm.name],
                )  # fmt: skip
                taken.append(box)
                break


def _around(wide: float) -> list[tuple[float, float]]:
    """Return where a label may begin: its left edge and its middle, relative to its point."""
    before, centred, after = -8 - wide, -wide / 2, 8.0
    near = [(before, 0.0), (before, LINE), (after, LINE), (centred, 1.2 * LINE), (after, 0.0)]
    near += [(before - 20, 0.0), (before - 40, 0.0), (after, -1.2 * LINE), (before, -1.2 * LINE)]
    return [*near, (centred, -1.4 * LINE), (before, 2 * LINE), (after, 2 * LINE)]


def _box(left: float, middle: float, text: str) -> Bbox:
    wide, half = text_width(text, bold=True), 0.55 * TEXT_SIZE
    return Bbox.from_extents(left - 1, middle - half, left + wide + 1, middle + half)


# Below the plot


def _action_rows(chart: _Chart, rows: Axes, margin: float) -> None:
    """Draw a row for each kind of action; `margin` is how far a label may extend beyond the right edge."""
    wide, high = axes_size(rows)
    rows.set_facecolor("none")
    rows.set_xlim(chart.span.start_s, chart.span.end_s)
    rows.set_ylim(high, 0)
    middles = [6 + ROW * (row + 0.5) for row in range(len(chart.kinds))]
    rows.set_yticks(middles, chart.kind_names())
    rows.tick_params(axis="y", labelcolor=INKS["giveback"])
    end_s = work_end_s(chart.run)
    if end_s is not None:
        rows.axvline(end_s, **_WORK_END)
    kept = [] if end_s is None else [(chart.span.x(end_s) * wide,) * 2]
    for kind, y in zip(chart.kinds, middles, strict=True):
        row = [action for action in chart.actions if action.kind == kind]
        places = [(chart.span.x(a.start_s) * wide, chart.span.x(a.end_s) * wide) for a in row]
        taken = [*kept, *places]
        for action, place in zip(row, places, strict=True):
            times = [action.start_s, action.end_s]
            rows.plot(
                times, [y, y], marker=MARKERS[kind], color=COLOURS["giveback"], markersize=7,
                linewidth=2.6, markeredgecolor=PAPER, clip_on=False,
            )  # fmt: skip
            text = _said(action)
            left = _beside(place, text_width(text), taken, wide + margin)
            if text and left is not None:
                taken.append((left, left + text_width(text)))
                note(rows, (0, 1), (left, -y), text, va="center", color=MUTED)


def _said(action: ChartAction) -> str:
    if action.count == 1:
        return action.label
    return f"{action.count} \u00d7 {action.label}" if action.label else f"{action.count} times"


def _beside(
    place: tuple[float, float], wide: float, taken: Sequence[tuple[float, float]], end: float
) -> float | None:
    """Return the left edge of a label right of its mark, else left of it, where it covers nothing."""
    for left in (place[1] + 8, place[0] - 8 - wide):
        free = all(left + wide + 5 <= a or left - 5 >= b for a, b in taken)
        if free and left >= 0 and left + wide <= end:
            return left
    return None


def _time_axis(chart: _Chart, axes: Axes, wide: float) -> None:
    ends = (str(round(chart.span.start_s)), str(round(chart.span.end_s)))
    most = int(wide / (max(text_width(end) for end in ends) + 24))
    ticks = time_ticks(chart.span.start_s, chart.span.end_s, most)
    axes.set_xticks(ticks, [str(t_s) for t_s in ticks])
    axes.set_xlabel("seconds since the work began", fontproperties=font(), color=MUTED)
