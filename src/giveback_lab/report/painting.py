"""Shared parts of all figures of the lab: fonts, axes, labels, and embedding a figure in a page.

In a page a figure's colours become the style sheet's variables, so that it follows light and dark
mode. Sizes are in points. matplotlib takes 1 s to import: import this module only where it draws.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from giveback.reporters.charts.picture import drawable
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.report.layout import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

POINTS_PER_INCH = 72
TEXT_SIZE = 10.5
LINE = 14.0
SWATCH = 26.0
FAMILY = "DejaVu Sans"
SHOWN_DECIMALS = 1

INK = "#16191d"
MUTED = "#5a6068"
RULE = "#d9dce0"
PAPER = "#ffffff"


def size_of(figure: Figure) -> tuple[float, float]:
    """Return a figure's width and height in points."""
    wide, high = figure.get_size_inches()
    return POINTS_PER_INCH * float(wide), POINTS_PER_INCH * float(high)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure in which one pixel is one point."""
    inches = (width / POINTS_PER_INCH, height / POINTS_PER_INCH)
    return Figure(figsize=inches, dpi=POINTS_PER_INCH, facecolor=PAPER)


def bare_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Add axes without a frame in that box: left, top, width, height from the top left."""
    width, height = size_of(figure)
    left, top, wide, high = box
    axes = figure.add_axes(
        (left / width, 1 - (top + high) / height, max(wide, 40.0) / width, high / height)
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=TEXT_SIZE, length=3, labelfontfamily=FAMILY)
    axes.tick_params(axis="y", length=0)
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    return axes


def axes_size(axes: Axes) -> tuple[float, float]:
    """Return the width and height in points of axes of a `new_figure`."""
    box = axes.get_window_extent()
    return float(box.width), float(box.height)


def font(size: float = TEXT_SIZE, *, bold: bool = False) -> FontProperties:
    """Return the font of all texts. matplotlib ships it, so it is the same everywhere."""
    return FontProperties(family=FAMILY, size=size, weight="bold" if bold else "normal")


def label_text(text: str) -> str:
    """Return text of others such that a figure can show it."""
    return drawable(escape_for_terminal(text, 200))


def text_width(text: str, size: float = TEXT_SIZE, *, bold: bool = False) -> float:
    """Return the width of a text in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        label_text(text), font(size, bold=bold), ismath=False
    )
    return float(width)


def words(axes: Axes, place: tuple[float, float], text: str, **how: Any) -> None:  # noqa: ANN401
    """Write text on the axes, in their data's units; it is never parsed as mathematics."""
    size, bold = how.pop("size", TEXT_SIZE), how.pop("bold", False)
    axes.text(
        *place,
        label_text(text),
        fontproperties=font(size, bold=bold),
        parse_math=False,
        clip_on=False,
        **how,
    )


def note(
    axes: Axes,
    corner: tuple[float, float],
    offset: tuple[float, float],
    text: str,
    *,
    bold: bool = False,
    **how: Any,  # noqa: ANN401
) -> None:
    """Write beside the axes: `offset` from a corner, (0, 0) the lower left, (1, 1) the upper right."""
    axes.annotate(
        label_text(text),
        corner,
        xytext=offset,
        xycoords="axes fraction",
        textcoords="offset points",
        fontproperties=font(bold=bold),
        parse_math=False,
        annotation_clip=False,
        **how,
    )


def end_labels(
    axes: Axes, ends: Sequence[tuple[str, float, str, bool]], top: float, height: float
) -> None:
    """Label the curves' ends right of the axes: (text, value, colour, bold) each, without overlaps.

    The axes are `height` high and go from 0 to `top`.
    """
    wanted = [height * value / top for _, value, _, _ in ends]
    for (text, _, colour, bold), y in zip(ends, spread(wanted, LINE, 0.0, height), strict=True):
        note(axes, (1, 0), (8, y), text, bold=bold, va="center", color=colour)


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A line's name, its style (as matplotlib's Line2D takes it), and its place in a row."""

    text: str
    look: Mapping[str, Any]
    x: float = 0.0


def legend_rows(entries: Iterable[LegendEntry], room: float) -> list[list[LegendEntry]]:
    """Arrange the entries beside one another, as many to a row as fit in `room` points."""
    rows: list[list[LegendEntry]] = [[]]
    used = 0.0
    for entry in entries:
        wide = SWATCH + 20 + text_width(entry.text)
        if rows[-1] and used + wide > room:
            rows.append([])
            used = 0.0
        rows[-1].append(replace(entry, x=used))
        used += wide
    return rows


def draw_legend(
    figure: Figure, rows: Sequence[Sequence[LegendEntry]], place: tuple[float, float]
) -> None:
    """Draw the legend; `place` is its left edge and its first row's middle, from the top left."""
    width, height = size_of(figure)
    left, down = place
    for index, row in enumerate(rows):
        y = 1 - (down + index * LINE) / height
        for entry in row:
            x = left + entry.x
            figure.add_artist(Line2D([x / width, (x + SWATCH) / width], [y, y], **entry.look))
            figure.text(
                (x + SWATCH + 5) / width, y, label_text(entry.text), fontproperties=font(),
                color=INK, va="center", parse_math=False,
            )  # fmt: skip


_ID = re.compile(r'(id="|url\(#|xlink:href="#)')
_PLACES = re.compile(r' (d|x|y|transform|points)="[^"]*"')
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_ROTATED = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_ELSEWHERE = re.compile(r"<metadata>.*?</metadata>\s*|<style type=.*?</style>\s*", re.DOTALL)
_COLOUR = re.compile(r": (#[0-9a-fA-F]{6})(?=[;\"])")


def inline_svg(
    figure: Figure, prefix: str, attributes: Mapping[str, str], colours: Mapping[str, str]
) -> Markup:
    """Return a figure as an `<svg>` for a page, with the `attributes` (they are escaped here).

    `prefix`, an XML name, makes its ids unique in the page. `colours` maps a colour, in lower case,
    to the style sheet's variable that replaces it.
    """
    FigureCanvasSVG(figure)
    text = io.StringIO()
    with mpl.rc_context(
        {"svg.hashsalt": "giveback", "svg.fonttype": "none", "path.simplify_threshold": 0.4}
    ):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = _ELSEWHERE.sub("", svg[svg.index("<svg") :])
    svg = _ID.sub(lambda found: f"{found[1]}{prefix}-", svg)
    svg = _FONT.sub("", _ROTATED.sub("", svg))
    svg = _COLOUR.sub(lambda found: _in_css(found, colours), svg)
    svg = _PLACES.sub(lambda place: _NUMBER.sub(_shorter, place[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    told = " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())
    before, after = re.split(r'width="[^"]*" height="[^"]*"', svg, maxsplit=1)
    # matplotlib's output is markup: it escapes the texts of a figure itself.
    return Markup(before.replace("<svg", f"<svg {told}", 1) + after)  # noqa: S704


def _in_css(found: re.Match[str], colours: Mapping[str, str]) -> str:
    name = colours.get(found[1].lower())
    return f": var(--{name})" if name else found[0]


def _shorter(found: re.Match[str]) -> str:
    return f"{float(found[0]):.{SHOWN_DECIMALS}f}".removesuffix(".0")
