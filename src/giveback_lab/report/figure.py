"""The chart as PNG and SVG files, painted with matplotlib, the same bytes for the same run.

matplotlib takes a second to import: import this module only where a file is written.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Text as FigureText
from matplotlib.textpath import text_to_path

from giveback.errors import InputError
from giveback_lab.report.compose import compose
from giveback_lab.report.layout import GIVEBACK_COLOUR, PLAIN_COLOUR
from giveback_lab.report.words import headline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.artist import Artist

    from giveback_lab.report.run import DemoRun, MarkKind
    from giveback_lab.report.scene import Anchor, Dot, Line, Role, Scene, Text

WIDTH = 1000.0
PLOT_HEIGHT = 330.0
PNG_DPI = 130
POINTS_PER_INCH = 72

_FAMILY = "DejaVu Sans"
_COLOURS: dict[Role, str] = {
    "plain": PLAIN_COLOUR,
    "giveback": GIVEBACK_COLOUR,
    "needed": "#4D4D4D",
    "text": "#111111",
    "muted": "#595959",
    "grid": "#D9D9D9",
    "axis": "#595959",
    "band": "#F2F2F2",
    "work-end": "#111111",
}
_DARK_TEXT: dict[Role, str] = {"plain": "#A84900", "giveback": "#005A8E"}
_LINES: dict[Role, dict[str, Any]] = {
    "plain": {"linewidth": 2.2, "dashes": (6, 2.2)},
    "giveback": {"linewidth": 2.6},
    "needed": {"linewidth": 1.4, "dashes": (1, 2)},
    "grid": {"linewidth": 0.7},
    "axis": {"linewidth": 0.9},
    "work-end": {"linewidth": 0.9, "dashes": (4, 3)},
}
_ALIGNMENT: dict[Anchor, Literal["left", "center", "right"]] = {
    "start": "left",
    "middle": "center",
    "end": "right",
}
MARKERS: dict[MarkKind, str] = {
    "reclaim": "v",
    "compact": "s",
    "report": "o",
    "deep": "D",
    "restore": "^",
}


def write_png(run: DemoRun, path: Path) -> None:
    """Write the chart as PNG. Raises InputError where `path` cannot be written."""
    figure = _figure(run)
    FigureCanvasAgg(figure)
    # Hinting would make texts wider than they were measured to be.
    with mpl.rc_context({"text.hinting": "no_hinting"}), _naming(path):
        figure.savefig(path, format="png", dpi=PNG_DPI, facecolor="white")


def write_svg(run: DemoRun, path: Path) -> None:
    """Write the chart as SVG. Raises InputError where `path` cannot be written."""
    figure = _figure(run)
    FigureCanvasSVG(figure)
    about = {"Date": None, "Title": _shown(headline(run)), "Creator": "giveback"}
    with mpl.rc_context({"svg.hashsalt": "giveback", "svg.fonttype": "path"}), _naming(path):
        figure.savefig(path, format="svg", metadata=about, facecolor="white")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: name a folder that can be written") from error


def _figure(run: DemoRun) -> Figure:
    scene = compose(run, WIDTH, PLOT_HEIGHT, _measure, titled=True)
    figure = Figure(figsize=(scene.width / POINTS_PER_INCH, scene.height / POINTS_PER_INCH))
    paint = _Painter(figure, scene)
    for rect in scene.rects:
        paint.add(
            Rectangle((rect.box.x, rect.box.y), rect.box.width, rect.box.height, **_fill(rect.role))
        )
    for line in scene.lines:
        paint.line(line)
    for dot in scene.dots:
        paint.dot(dot)
    for text in scene.texts:
        paint.text(text)
    return figure


def _measure(text: str, size: float, bold: bool) -> float:
    width, _, _ = text_to_path.get_text_width_height_descent(
        _shown(text), _font(size, bold=bold), ismath=False
    )
    return float(width)


def _font(size: float, *, bold: bool) -> FontProperties:
    return FontProperties(family=_FAMILY, size=size, weight="bold" if bold else "normal")


def _shown(text: str) -> str:
    """The font that comes with matplotlib has all of Latin-1; what it lacks would be a warning."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _fill(role: Role) -> dict[str, Any]:
    alpha = 0.14 if role == "giveback" else 1.0
    return {"facecolor": _COLOURS[role], "alpha": alpha, "edgecolor": "none", "linewidth": 0}


class _Painter:
    """Adds a scene's parts to a figure, in their order."""

    def __init__(self, figure: Figure, scene: Scene) -> None:
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set_xlim(0, scene.width)
        self._axes.set_ylim(scene.height, 0)
        self._order = 1.0

    def add(self, artist: Artist) -> None:
        self._order += 1
        artist.set_zorder(self._order)
        self._axes.add_artist(artist)

    def line(self, line: Line) -> None:
        if line.floor_y is not None:
            (left, _), (right, _) = line.points[0], line.points[-1]
            corners = [*line.points, (right, line.floor_y), (left, line.floor_y)]
            self.add(Polygon(corners, closed=True, **_fill(line.role)))
            return
        xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
        style = _LINES[line.role]
        self.add(Line2D(xs, ys, color=_COLOURS[line.role], solid_joinstyle="round", **style))

    def dot(self, dot: Dot) -> None:
        marker = MARKERS[dot.kind] if dot.kind else "o"
        self.add(
            Line2D(
                [dot.x], [dot.y], linestyle="none", marker=marker, markersize=6.5,
                markerfacecolor=_COLOURS[dot.role], markeredgecolor="white", markeredgewidth=1,
            )
        )  # fmt: skip

    def text(self, text: Text) -> None:
        artist = FigureText(
            text.x,
            text.y,
            _shown(text.text),
            color=_DARK_TEXT.get(text.role, _COLOURS[text.role]),
            fontproperties=_font(text.size, bold=text.bold),
            horizontalalignment=_ALIGNMENT[text.anchor],
            verticalalignment="baseline",
            parse_math=False,
        )
        self.add(artist)
