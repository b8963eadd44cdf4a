"""A scene as inline SVG: colours come from the page's style sheet, by the role's class. Pure.

Its fonts are the reader's, so widths are those of the widest common one.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback_lab.report.run import MarkKind
    from giveback_lab.report.scene import Dot, Line, Rect, Scene, Text

_NARROW = frozenset("fijlrt|!.,:;'()[] ")
_WIDE = frozenset("mwMW%@")
_SHAPES: dict[MarkKind | None, str] = {
    None: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "reclaim": "M-4.5-4h9L0 4.5z",
    "compact": "M-3.8-3.8h7.6v7.6h-7.6z",
    "report": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "deep": "M0-5 5 0 0 5-5 0z",
    "restore": "M-4.5 4h9L0-4.5z",
}


def svg_measure(text: str, size: float, bold: bool) -> float:
    """How wide a text may be in a browser: on the safe side for the usual sans-serif fonts."""
    return size * sum(_em(c) for c in text) * (1.1 if bold else 1.0)


def scene_svg(scene: Scene, css_class: str, name: str, about: str) -> str:
    """The scene as one `<svg>`, with `name` and `about` for those who do not see it.

    The `data-` attributes say where its axes are, so that a script can find the value at a point.
    """
    span, plot = scene.span, scene.plot
    parts = [
        (
            f'<svg class="{escape(css_class)}" viewBox="0 0 {_n(scene.width)} {_n(scene.height)}" '
            f'role="img" aria-label="{escape(name)}. {escape(about)}" '
            f'data-plot="{_n(plot.x)} {_n(plot.y)} {_n(plot.width)} {_n(plot.height)}" '
            f'data-span="{_n(span.start_s)} {_n(span.end_s)} {span.top_bytes}">'
        ),
        *map(_rect, scene.rects),
        *map(_line, scene.lines),
        *map(_dot, scene.dots),
        *map(_text, scene.texts),
        "</svg>",
    ]
    return "\n".join(parts)


def _em(character: str) -> float:
    if character in _NARROW:
        return 0.4
    if character in _WIDE:
        return 0.97
    if character.isupper():
        return 0.72
    return 0.63 if character.isascii() else 1.0


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _rect(rect: Rect) -> str:
    box = rect.box
    return (
        f'<rect class="{rect.role}" x="{_n(box.x)}" y="{_n(box.y)}" '
        f'width="{_n(box.width)}" height="{_n(box.height)}"/>'
    )


def _line(line: Line) -> str:
    points = list(line.points)
    if line.floor_y is None:
        return f'<polyline class="{line.role}" points="{_points(points)}"/>'
    corners = [*points, (points[-1][0], line.floor_y), (points[0][0], line.floor_y)]
    return f'<polygon class="{line.role}" points="{_points(corners)}"/>'


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _dot(dot: Dot) -> str:
    place = f"translate({_n(dot.x)} {_n(dot.y)})"
    return f'<path class="{dot.role}" transform="{place}" d="{_SHAPES[dot.kind]}"/>'


def _text(text: Text) -> str:
    classes = f"{text.role} bold" if text.bold else text.role
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    return (
        f'<text class="{classes}" x="{_n(text.x)}" y="{_n(text.y)}" '
        f'font-size="{_n(text.size)}"{anchor}>{escape(text.text)}</text>'
    )
