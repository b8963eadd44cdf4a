"""Shapes and placed texts, in points with y downwards: what a chart is before it is painted. Pure.

`compose` makes a scene of a run; `figure` paints it with matplotlib, `svg` writes it into the page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from giveback_lab.report.layout import Span
    from giveback_lab.report.run import MarkKind

Anchor = Literal["start", "middle", "end"]
Role = Literal["plain", "giveback", "needed", "text", "muted", "grid", "axis", "band", "work-end"]

_LEFT_SHARE: dict[Anchor, float] = {"start": 0.0, "middle": 0.5, "end": 1.0}
_ASCENT, _DESCENT = 0.78, 0.24


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; `width` and `height` are not negative."""

    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True, slots=True)
class Rect:
    """A filled box."""

    box: Box
    role: Role


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; where `floor_y` is given, the area between it and that level."""

    points: tuple[tuple[float, float], ...]
    role: Role
    floor_y: float | None = None


@dataclass(frozen=True, slots=True)
class Dot:
    """A point that is marked; actions of the agent have a shape for each kind."""

    x: float
    y: float
    role: Role
    kind: MarkKind | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; `y` is its baseline, `width` what it was measured to take."""

    x: float
    y: float
    text: str
    size: float
    width: float
    role: Role = "text"
    anchor: Anchor = "start"
    bold: bool = False

    @property
    def box(self) -> Box:
        """What the text covers."""
        left = self.x - _LEFT_SHARE[self.anchor] * self.width
        return Box(left, self.y - _ASCENT * self.size, self.width, (_ASCENT + _DESCENT) * self.size)


@dataclass(slots=True)
class Scene:
    """Everything to paint, in this order: rects, lines, dots, texts. `plot` is within the axes."""

    width: float
    height: float
    plot: Box
    span: Span
    rects: list[Rect] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def x(self, t_s: float) -> float:
        """Where a moment lies."""
        return self.plot.x + self.span.x(t_s) * self.plot.width

    def y(self, size_bytes: float) -> float:
        """Where a size lies."""
        return self.plot.y + (1 - self.span.y(size_bytes)) * self.plot.height

    def is_clear(self, box: Box) -> bool:
        """Whether neither a text nor a curve would be covered there."""
        if any(box.overlaps(text.box) for text in self.texts):
            return False
        kept_clear = ("plain", "giveback", "needed", "work-end")
        curves = [line for line in self.lines if line.role in kept_clear]
        return not any(_crosses(line, box) for line in curves if line.floor_y is None)


def _crosses(line: Line, box: Box) -> bool:
    points = line.points
    for index, (bx, by) in enumerate(points):
        ax, ay = points[max(0, index - 1)]
        if (
            min(ax, bx) <= box.x + box.width
            and max(ax, bx) >= box.x
            and min(ay, by) <= box.y + box.height
            and max(ay, by) >= box.y
        ):
            return True
    return False
