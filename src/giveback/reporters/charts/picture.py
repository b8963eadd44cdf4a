"""Write a matplotlib figure as PNG or SVG: the same figure always makes the same bytes.

matplotlib takes 1 s to import: import this module only where a picture is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

from giveback.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

PNG_DPI = 130
# Neither the date nor a random number gets into a file. Texts are paths, so a viewer without the
# font shows the same. Hinting would make them wider in a PNG than measured.
REPRODUCIBLE: dict[Any, Any] = {
    "svg.hashsalt": "giveback",
    "svg.fonttype": "path",
    "text.hinting": "no_hinting",
}

# Characters besides Latin-1 that our own texts use; the font that matplotlib ships has all of
# these.
_BEYOND_LATIN = frozenset("\u2212\u2013\u2014\u00d7\u2020\u2026")


def drawable(text: str) -> str:
    """Return the text with `?` for characters the font may lack, which would give a warning and a box."""
    return "".join(c if ord(c) < 256 or c in _BEYOND_LATIN else "?" for c in text)


def write_picture(figure: Figure, path: Path, kind: str, title: str) -> Path:
    """Write the figure and return `path`; `kind` is png or svg, `title` the SVG's own.

    Raises InputError if `path` cannot be written.
    """
    metadata: dict[str, str | None]
    if kind == "svg":
        FigureCanvasSVG(figure)
        metadata = {"Date": None, "Title": drawable(title), "Creator": "giveback"}
    else:
        FigureCanvasAgg(figure)
        metadata = {"Software": "giveback"}
    try:
        with mpl.rc_context(REPRODUCIBLE):
            figure.savefig(path, format=kind, dpi=PNG_DPI, metadata=metadata)
    except OSError as error:
        problem = f"{path}: {error.strerror}"
        raise InputError(
            f"{problem}: name another file, in a folder that can be written"
        ) from error
    return path
