"""What all figures of the benchmark share: colours, files, and the way into a page.

A figure is painted once with matplotlib, the same bytes for the same results. In a page its colours
become the style sheet's, so that it is light or dark with it. matplotlib takes a second to import:
import these modules only where a figure is made.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from giveback.errors import InputError
from giveback_lab.bench.analysis.comparable import NONE, OURS, is_own
from giveback_lab.bench.report.text import safe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from giveback_lab.bench.analysis.comparable import Group

PNG_DPI = 130
POINTS_PER_INCH = 72
WIDE, NARROW = 900.0, 400.0
TEXT_SIZE = 10.5
FAMILY = "DejaVu Sans"
SHOWN_DECIMALS = 1

# Okabe and Ito's palette: these stay apart with every kind of colour blindness; so do the dashes.
INK = "#16191d"
MUTED = "#5a6068"
RULE = "#d9dce0"
PAPER = "#ffffff"
OURS_COLOUR = "#0072b2"
OTHER = "#9aa0a8"
CSS_NAMES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "page",
    OURS_COLOUR: "giveback",
    OTHER: "other",
    "#4d4d4e": "none",
    "#d55e00": "reporting",
    "#00835f": "gen2a",
    "#b8548f": "gen2b",
    "#a87400": "best",
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a strategy looks in every figure; `named` are told apart by name, the others are grey."""

    colour: str
    width: float
    dashes: tuple[float, ...] | None
    marker: str
    named: bool


_OURS = Style(OURS_COLOUR, 3.0, None, "o", named=True)
_OTHER = Style(OTHER, 0.9, None, "o", named=False)
_NAMED = {
    NONE: Style("#4d4d4e", 1.8, (1.2, 1.6), "X", named=True),
    "reporting": Style("#d55e00", 1.9, (6, 2), "s", named=True),
}
_GEN2 = (
    Style("#00835f", 1.9, (4, 1.5, 1, 1.5), "^", named=True),
    Style("#b8548f", 1.9, (8, 1.5, 1, 1.5, 1, 1.5), "v", named=True),
)
_BEST = Style("#a87400", 1.9, (3, 1.2), "D", named=True)


def styles(group: Group, best: str | None = None) -> dict[str, Style]:
    """Each strategy's style; beside the usual ones `best` is named, too."""
    found = {}
    gen2 = sorted((n for n in group.strategies if n.startswith("wsl-gen2")), reverse=True)
    for name in group.strategies:
        if name == OURS:
            found[name] = _OURS
        elif name in _NAMED:
            found[name] = _NAMED[name]
        elif name in gen2[:2]:
            found[name] = _GEN2[gen2.index(name)]
        elif name == best and not is_own(name):
            found[name] = _BEST
        else:
            found[name] = _OTHER
    return found


def size_of(figure: Figure) -> tuple[float, float]:
    """A figure's width and height in points."""
    wide, high = figure.get_size_inches()
    return POINTS_PER_INCH * float(wide), POINTS_PER_INCH * float(high)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many points, white."""
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    figure.set_facecolor(PAPER)
    return figure


def bare_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes in that box (left, top, width, height in points from the top left), without a frame."""
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


def font(size: float = TEXT_SIZE, *, bold: bool = False) -> FontProperties:
    """The font of all texts: matplotlib brings it along, so it is the same everywhere."""
    return FontProperties(family=FAMILY, size=size, weight="bold" if bold else "normal")


def text_width(text: str, size: float = TEXT_SIZE, *, bold: bool = False) -> float:
    """How wide a text is, in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        shown(text), font(size, bold=bold), ismath=False
    )
    return float(width)


def short(name: str) -> str:
    """A strategy's or a VM's name, not longer than a figure has room for."""
    return safe(name, 28)


def shown(text: str) -> str:
    """A text with what the font has: what it lacks would be a warning and a box."""
    return "".join(
        c if c in "\u2212\u2013\u00d7\u2020" or ord(c) < 256 else "?" for c in safe(text)
    )


def words(axes: Axes, place: tuple[float, float], text: str, **how: Any) -> None:  # noqa: ANN401
    """Write on the axes, in their data's units: never as mathematics."""
    size, bold = how.pop("size", TEXT_SIZE), how.pop("bold", False)
    axes.text(
        *place,
        shown(text),
        fontproperties=font(size, bold=bold),
        parse_math=False,
        clip_on=False,
        **how,
    )


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """A figure's title and what is below it, at the top left, for one that stands alone."""
    width, height = size_of(figure)
    for text, down, size, bold, colour in (
        (title, 22.0, 14.0, True, INK),
        (subtitle, 40.0, TEXT_SIZE, False, MUTED),
    ):
        figure.text(
            4 / width,
            1 - down / height,
            shown(text),
            fontproperties=font(size, bold=bold),
            color=colour,
            parse_math=False,
        )


HEADING_HEIGHT = 52.0


def write_png(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG. Raises InputError where `path` cannot be written."""
    FigureCanvasAgg(figure)
    # Hinting would make texts wider than they were measured to be.
    with mpl.rc_context({"text.hinting": "no_hinting"}), _naming(path):
        about = {"Software": "giveback"}
        figure.savefig(path, format="png", dpi=PNG_DPI, metadata=about)
    return path


def write_svg(figure: Figure, path: Path, title: str) -> Path:
    """Write a figure as SVG. Raises InputError where `path` cannot be written."""
    FigureCanvasSVG(figure)
    about = {"Date": None, "Title": shown(title), "Creator": "giveback"}
    with mpl.rc_context({"svg.hashsalt": "giveback", "svg.fonttype": "path"}), _naming(path):
        figure.savefig(path, format="svg", metadata=about)
    return path


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: name a folder that can be written") from error


_ID = re.compile(r'(id="|url\(#|xlink:href="#)')
_PLACES = re.compile(r' (d|x|y|transform|points)="[^"]*"')
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_ROTATED = re.compile(r' transform="rotate\(-?0 [^"]*\)"')


def inline_svg(figure: Figure, prefix: str, css_class: str, label: str) -> str:
    """A figure as an `<svg>` for a page: its ids are made the page's by `prefix`, an XML name.

    `label`, which is escaped already, is for those who do not see it.
    """
    FigureCanvasSVG(figure)
    text = io.StringIO()
    with mpl.rc_context(
        {"svg.hashsalt": "giveback", "svg.fonttype": "none", "path.simplify_threshold": 0.4}
    ):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = _ID.sub(lambda found: f"{found[1]}{prefix}-", svg)
    svg = _in_css_colours(_FONT.sub("", _ROTATED.sub("", svg)))
    svg = _PLACES.sub(lambda place: _NUMBER.sub(_shorter, place[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"',
        rf'<svg class="{css_class}" role="img" aria-label="{_literal(label)}" \1',
        svg,
        count=1,
    )


def _shorter(found: re.Match[str]) -> str:
    return f"{float(found[0]):.{SHOWN_DECIMALS}f}".removesuffix(".0")


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")


def _in_css_colours(svg: str) -> str:
    """Every colour that we use becomes the page's variable of that name, in styles alone."""

    def named(found: re.Match[str]) -> str:
        name = CSS_NAMES.get(found[1].lower())
        return f": var(--{name})" if name else found[0]

    return re.sub(r": (#[0-9a-fA-F]{6})(?=[;\"])", named, svg)
