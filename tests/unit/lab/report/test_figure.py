"""The chart: nothing covers anything, whatever was measured; and its PNG and SVG files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING
from xml.dom import minidom

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from report_runs import cut, make_run, patient, runs

from giveback.errors import InputError
from giveback.reporters.charts.picture import REPRODUCIBLE
from giveback_lab.report.figure import HEIGHT, WIDTH, run_figure, write_png, write_svg
from giveback_lab.report.page import CHARTS
from giveback_lab.report.run import DemoRun, RunMark

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

SIZES = [(WIDTH, HEIGHT, True), *((width, height, False) for _, width, height in CHARTS)]

HOSTILE = "$\\frac{1}{0}$ </text> \u5b57 \U0001f600 \x1b[31m \ud800"


def hostile_run() -> DemoRun:
    run = make_run()
    giveback = replace(
        run.vms[1],
        description=HOSTILE,
        marks=tuple(replace(mark, label=HOSTILE) for mark in run.vms[1].marks),
        work_phases=tuple(replace(phase, name=HOSTILE) for phase in run.vms[1].work_phases),
    )
    return replace(run, vms=(run.vms[0], giveback), kernel_release=HOSTILE, qemu_version=HOSTILE)


def drawn(run: DemoRun, size: tuple[float, float, bool] = SIZES[0]) -> Figure:
    width, height, titled = size
    figure = run_figure(run, width, height, titled=titled)
    FigureCanvasAgg(figure)
    return figure


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return every text of the figure as painted, with the box that it covers, in points."""
    with mpl.rc_context(REPRODUCIBLE):
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
        return [(text.get_text(), text.get_window_extent()) for text in texts]


def texts(run: DemoRun, size: tuple[float, float, bool] = SIZES[0]) -> list[str]:
    return [text for text, _ in boxes(drawn(run, size))]


@given(runs(), st.sampled_from(SIZES))
@patient
def test_no_text_covers_another_or_leaves_the_picture(
    run: DemoRun, size: tuple[float, float, bool]
) -> None:
    figure = drawn(run, size)
    found = boxes(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for (one, box), (other, other_box) in combinations(found, 2):
        assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), (one, other)
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= height + 1, text


@given(runs())
@patient
def test_curves_stay_within_the_plot(run: DemoRun) -> None:
    figure = drawn(run)
    plot = figure.axes[0]
    (left, right), (bottom, top) = plot.get_xlim(), plot.get_ylim()
    colours = {"#D55E00", "#0072B2"}
    curves = [line for line in plot.get_lines() if line.get_color() in colours]
    assert curves or not any(vm.samples for vm in run.vms)
    for curve in curves:
        times = np.asarray(curve.get_xdata(), dtype=float)
        sizes = np.asarray(curve.get_ydata(), dtype=float)
        assert np.all((left <= times) & (times <= right))
        assert np.all((bottom <= sizes) & (sizes <= top))


@pytest.mark.parametrize("size", SIZES)
def test_the_whole_run_names_what_matters(size: tuple[float, float, bool]) -> None:
    shown = texts(make_run(), size)
    assert any(text.endswith("1704 MiB") for text in shown)
    assert any(text.endswith("310 MiB") for text in shown)
    assert "work ends" in shown
    assert "seconds since the work began" in shown


def test_the_wide_chart_says_it_all() -> None:
    shown = set(texts(make_run()))
    assert "The plain VM keeps 1.7 GiB, giveback returns to 0.3 GiB" in shown
    assert {"peak 1706 MiB", "peak 1510 MiB", "needed 301 MiB"} <= shown
    assert {"boot", "checkout", "build", "big test", "run again", "two tests", "clean"} <= shown
    assert {"reclaim", "compact", "report", "deep report", "restore order"} <= shown
    assert "8 \u00d7 64 MiB" in shown
    assert "1792 MiB" in shown


def test_both_need_the_same_is_one_line() -> None:
    run = make_run()
    far = replace(run.vms[0], needed_bytes=800 << 20)
    assert len([t for t in texts(run) if t.startswith("needed")]) == 1
    both = replace(run, vms=(far, run.vms[1]))
    assert len([t for t in texts(both) if t.startswith("needed")]) == 2


def test_rows_only_for_what_the_agent_did() -> None:
    run = make_run("giveback")
    once = replace(run.vms[0], marks=(RunMark(125.0, "giveback", "compact", "412 MiB"),))
    shown = texts(replace(run, vms=(once,)))
    assert "compact" in shown
    assert "reclaim" not in shown
    assert len(drawn(make_run("plain")).axes) == 1


def test_an_empty_run_says_so() -> None:
    assert "no samples" in texts(cut(make_run(), -99))
    assert "no samples" in texts(replace(make_run(), vms=()))


def test_png_is_wide_enough_for_a_page(tmp_path: Path) -> None:
    write_png(make_run(), tmp_path / "chart.png")
    data = (tmp_path / "chart.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") >= 1600


def test_svg_is_the_same_for_the_same_run_and_has_no_date(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_svg(make_run(), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "dc:date" not in text
    assert "The plain VM keeps 1.7 GiB" in text
    assert len(text) < 300_000


@pytest.mark.parametrize(
    "run",
    [
        hostile_run(),
        make_run("giveback"),
        cut(make_run(), 70),
        cut(make_run(), -23.5),
        cut(make_run(), -99),
        replace(make_run(), vms=()),
    ],
    ids=["hostile", "no-compare", "cut", "one-sample", "no-samples", "no-vms"],
)
def test_every_run_can_be_drawn(run: DemoRun, tmp_path: Path) -> None:
    write_svg(run, tmp_path / "chart.svg")
    minidom.parse(str(tmp_path / "chart.svg"))  # noqa: S318
    write_png(run, tmp_path / "chart.png")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    for write in (write_png, write_svg):
        with pytest.raises(InputError, match="nowhere"):
            write(cut(make_run(), -20), tmp_path / "nowhere" / "chart")
