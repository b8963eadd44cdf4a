"""The chart's layout: nothing covers anything, whatever was measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import cut, make_run, patient, runs

from giveback_lab.report.compose import compose
from giveback_lab.report.run import DemoRun, Mark
from giveback_lab.report.scene import Box, Scene
from giveback_lab.report.svg import svg_measure

SIZES = [(1000.0, 330.0, True), (940.0, 330.0, False), (600.0, 280.0, False), (350.0, 240.0, False)]


def scene_of(run: DemoRun, width: float = 1000, height: float = 330) -> Scene:
    return compose(run, width, height, svg_measure, titled=True)


def texts(scene: Scene) -> list[str]:
    return [text.text for text in scene.texts]


@given(runs(), st.sampled_from(SIZES))
@patient
def test_no_text_covers_another_or_leaves_the_picture(
    run: DemoRun, size: tuple[float, float, bool]
) -> None:
    width, height, titled = size
    scene = compose(run, width, height, svg_measure, titled=titled)
    for one, other in combinations(scene.texts, 2):
        assert not one.box.overlaps(other.box), (one, other)
    # The last tick's label may stand out of the plot, but its margin is wide enough for it.
    for text in scene.texts:
        assert text.box.x >= -1
        assert text.box.x + text.box.width <= width + 1, text
        assert text.box.y >= 0
        assert text.box.y + text.box.height <= scene.height


@given(runs())
@patient
def test_curves_stay_within_the_plot(run: DemoRun) -> None:
    scene = scene_of(run)
    plot = scene.plot
    for line in scene.lines:
        if line.role in ("plain", "giveback") and len(line.points) > 2:
            assert all(plot.x - 0.01 <= x <= plot.x + plot.width + 0.01 for x, _ in line.points)
            assert all(plot.y - 0.01 <= y <= plot.y + plot.height + 0.01 for _, y in line.points)


@pytest.mark.parametrize(("width", "height", "titled"), SIZES)
def test_the_whole_run_names_what_matters(width: float, height: float, titled: bool) -> None:
    shown = texts(compose(make_run(), width, height, svg_measure, titled=titled))
    assert any(text.endswith("1704 MiB") for text in shown)
    assert any(text.endswith("310 MiB") for text in shown)
    assert "work ends" in shown
    assert "seconds since the work began" in shown


def test_the_wide_chart_says_it_all() -> None:
    shown = texts(scene_of(make_run()))
    assert shown[0] == "The plain VM keeps 1.7 GiB, giveback returns to 0.3 GiB"
    assert {"peak 1706 MiB", "peak 1510 MiB", "needed 301 MiB"} <= set(shown)
    assert {"boot", "checkout", "build", "big test", "run again", "two tests", "clean"} <= set(
        shown
    )
    assert {"reclaim", "compact", "report", "deep report", "restore order"} <= set(shown)
    assert "8 \u00d7 64 MiB" in shown
    assert "1792 MiB" in shown


def test_both_need_the_same_is_one_line() -> None:
    run = make_run()
    far = replace(run.vms[0], needed_bytes=800 << 20)
    assert len([t for t in texts(scene_of(run)) if t.startswith("needed")]) == 1
    both = scene_of(replace(run, vms=(far, run.vms[1])))
    assert len([t for t in texts(both) if t.startswith("needed")]) == 2


def test_rows_only_for_what_the_agent_did() -> None:
    run = make_run("giveback")
    once = replace(run.vms[0], marks=(Mark(125.0, "giveback", "compact", "412 MiB"),))
    shown = texts(scene_of(replace(run, vms=(once,))))
    assert "compact" in shown
    assert "reclaim" not in shown
    assert "agent" not in texts(scene_of(make_run("plain")))


def test_an_empty_run_says_so() -> None:
    assert "no samples" in texts(scene_of(cut(make_run(), -99)))
    assert "no samples" in texts(scene_of(replace(make_run(), vms=())))


def test_boxes_that_touch_do_not_overlap() -> None:
    assert not Box(0, 0, 10, 10).overlaps(Box(10, 0, 10, 10))
    assert Box(0, 0, 10, 10).overlaps(Box(9, 9, 10, 10))
