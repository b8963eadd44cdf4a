"""The figures: what is drawn, and that nothing is covered."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.dom import minidom

import numpy as np
import pytest
from bench_results import FEW, SHAPES, make_results
from matplotlib.text import Annotation

from giveback.reporters.charts.picture import write_picture
from giveback_lab.bench.analysis.comparable import groups
from giveback_lab.bench.analysis.targets import best_by, other_strategies
from giveback_lab.bench.report.figures import CSS_NAMES, NARROW, WIDE, styles
from giveback_lab.bench.report.figures_bars import bars_figure, scatter_figure
from giveback_lab.bench.report.figures_time import curves, resident_figure, telling_figure, told
from giveback_lab.report.painting import inline_svg

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from giveback_lab.bench.analysis.comparable import CellGroup


def group_of(work: str = "files", strategies: tuple[str, ...] = FEW, rounds: int = 2) -> CellGroup:
    (group,) = groups(make_results((work,), strategies, rounds))
    return group


def texts_of(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
    return found


def test_every_colour_is_one_of_the_pages() -> None:
    for style in styles(group_of(strategies=tuple(SHAPES)), "senpai").values():
        assert style.colour in CSS_NAMES


def test_named_strategies_look_different_without_colour() -> None:
    looks = styles(group_of(strategies=tuple(SHAPES)), "senpai")
    named = [look for look in looks.values() if look.named]
    assert len(named) == 6
    assert len({look.marker for look in named}) == len(named)
    assert len({look.dashes for look in named}) == len(named)
    assert len({look.colour for look in named}) == len(named)


def test_curves_meet_at_the_works_end() -> None:
    drawn = curves(group_of(rounds=3), ("none", "giveback", "absent"))
    assert set(drawn) == {"none", "giveback"}
    none, ours = drawn["none"], drawn["giveback"]
    assert none.t_s[0] < -60
    assert none.middle[none.t_s > 90].mean() > 2 * ours.middle[ours.t_s > 90].mean()
    for curve in drawn.values():
        assert np.all(curve.low <= curve.middle)
        assert np.all(curve.middle <= curve.high)
        assert not np.isnan(curve.middle).any()


def test_the_ends_are_labelled_and_others_are_counted() -> None:
    group = group_of(strategies=tuple(SHAPES))
    texts = texts_of(resident_figure(group, WIDE, titled=True))
    assert [text for text in texts if text.startswith("giveback ") and text.endswith(" MiB")]
    assert f"{len(SHAPES) - 5} others" in texts
    assert "work ends" in texts
    assert "re-read" in texts


def test_the_telling_figure_has_footprints_at_its_ends() -> None:
    group = group_of("build")
    texts = texts_of(telling_figure(group, WIDE))
    ends = [text for text in texts if text.endswith("GiB min")]
    best = best_by(group, other_strategies(group), "footprint_after_gib_min")
    assert [text for text in ends if text.startswith(f"{told(best or '')}: ")], "the best other"
    assert 4 <= len(ends) <= 5
    assert [text for text in texts if text.startswith("needed ")]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("work", ["build", "three-staggered"])
def test_end_labels_do_not_touch(work: str, width: float) -> None:
    figure = resident_figure(group_of(work, tuple(SHAPES), 1), width, titled=False)
    (axes,) = figure.axes
    notes = [text for text in axes.texts if isinstance(text, Annotation)]
    ends = sorted(float(note.xyann[1]) for note in notes if note.xy == (1, 0))
    assert len(ends) >= 6
    assert min(np.diff(ends)) > 13.9


def test_scatter_needs_none_to_compare_with() -> None:
    assert scatter_figure(group_of(strategies=("reporting", "giveback")), WIDE, titled=True) is None
    both = scatter_figure(group_of(), WIDE, titled=True)
    assert both is not None
    assert len(both.axes) == 2


def test_scatter_names_the_important_ones() -> None:
    figure = scatter_figure(group_of("build", tuple(SHAPES), 3), NARROW, titled=False)
    assert figure is not None
    named = {"giveback", "none", "reporting", "wsl-gen2-gradual", "wsl-gen2-dropcache"}
    assert named <= set(texts_of(figure))


def test_bars_are_in_order_and_mark_what_hurts() -> None:
    figure = bars_figure(group_of("files", tuple(SHAPES), 1), WIDE, titled=False)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "giveback"
    assert names[-1] == "none"
    assert "wsl-gen2-dropcache \u2020" in names
    assert len(figure.axes) == 2


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_bars_stay_within_their_figure(width: float) -> None:
    figure = bars_figure(group_of("build", rounds=1), width, titled=True)
    for axes in figure.axes:
        place = axes.get_position()
        assert place.x0 >= 0
        assert place.x1 <= 1
        assert place.y0 >= 0


def test_a_build_has_bars_for_each_residue() -> None:
    assert len(bars_figure(group_of("build"), WIDE, titled=False).axes) == 4


def test_an_inline_figure_is_xml_and_its_ids_are_its_own() -> None:
    group = group_of()
    about = {"class": "narrow", "aria-label": "a & b"}
    svg = inline_svg(resident_figure(group, NARROW, titled=False), "f-1", about, CSS_NAMES)
    root = minidom.parseString(svg).documentElement  # noqa: S318
    assert root is not None
    assert root.getAttribute("aria-label") == "a & b"
    assert not root.getAttribute("width")
    ids = [e.getAttribute("id") for e in root.getElementsByTagName("*") if e.hasAttribute("id")]
    assert ids
    assert all(one.startswith("f-1-") for one in ids)
    assert 20_000 < len(svg) < 400_000


def test_a_figure_as_a_file_is_xml(tmp_path: Path) -> None:
    figure = bars_figure(group_of(), WIDE, titled=True)
    write_picture(figure, tmp_path / "a.svg", "svg", "a <title>")
    assert minidom.parse(str(tmp_path / "a.svg")).documentElement is not None  # noqa: S318
