"""How each strategy is drawn in every figure of the benchmark, and other shared parts of its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.bench.analysis.comparable import NONE, OURS, is_own
from giveback_lab.report.painting import (
    INK,
    MUTED,
    PAPER,
    RULE,
    TEXT_SIZE,
    font,
    label_text,
    size_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import CellGroup

WIDE, NARROW = 900.0, 400.0
HEADING_HEIGHT = 52.0

# Okabe and Ito's palette can be told apart with every kind of colour blindness; so can the dashes.
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
    """How a strategy is drawn in every figure; `named` ones have a colour, the others are grey."""

    colour: str
    width: float
    dashes: tuple[float, ...] | None
    marker: str
    named: bool

    def line(self) -> dict[str, Any]:
        """Return the style as matplotlib's Line2D takes it."""
        dashes = {"dashes": self.dashes} if self.dashes else {}
        return {"color": self.colour, "linewidth": self.width, **dashes}


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


def styles(group: CellGroup, best: str | None = None) -> dict[str, Style]:
    """Return each strategy's style; `best` is named in addition to the usual ones."""
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


def short(name: str) -> str:
    """Return a strategy's or a VM's name, shortened to fit a figure."""
    return escape_for_terminal(name, 28)


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Draw the title and subtitle of a stand-alone figure at the top left."""
    width, height = size_of(figure)
    for text, down, size, bold, colour in (
        (title, 22.0, 14.0, True, INK),
        (subtitle, 40.0, TEXT_SIZE, False, MUTED),
    ):
        figure.text(
            4 / width,
            1 - down / height,
            label_text(text),
            fontproperties=font(size, bold=bold),
            color=colour,
            parse_math=False,
        )
