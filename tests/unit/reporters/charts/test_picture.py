"""Files made with matplotlib: reproducible, and an error that names the file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.dom import minidom

import pytest
from matplotlib.figure import Figure

from giveback.errors import InputError
from giveback.reporters.charts.picture import drawable, write_picture

if TYPE_CHECKING:
    from pathlib import Path


def figure() -> Figure:
    drawn = Figure(figsize=(2, 1))
    axes = drawn.add_subplot()
    axes.plot([1, 2, 3], [1, 4, 9])
    axes.fill_between([1, 2, 3], [0, 1, 2], [1, 2, 3], clip_on=True)
    return drawn


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figure_makes_the_same_bytes_without_a_date(kind: str, tmp_path: Path) -> None:
    once, again = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    assert write_picture(figure(), once, kind, "what") == once
    write_picture(figure(), again, kind, "what")
    assert once.read_bytes() == again.read_bytes()
    for dated in (b"dc:date", b"matplotlib version", b"Creation"):
        assert dated not in once.read_bytes()


def test_an_svg_has_its_title_as_text(tmp_path: Path) -> None:
    write_picture(figure(), tmp_path / "a.svg", "svg", "</title><script>\u5b57")
    document = minidom.parse(str(tmp_path / "a.svg"))  # noqa: S318
    assert "<script>" not in (tmp_path / "a.svg").read_text()
    assert document.getElementsByTagName("title")[0].firstChild is not None


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_file_that_cannot_be_written_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*name another file"):
        write_picture(figure(), tmp_path / "nowhere" / "a", kind, "")


def test_a_letter_that_the_font_lacks_is_a_question_mark() -> None:
    assert drawable("a \u00e4 \u00d7 \u2212 \u5b57 \U0001f600") == "a \u00e4 \u00d7 \u2212 ? ?"
