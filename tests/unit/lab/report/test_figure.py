"""The PNG and SVG files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from xml.dom import minidom

import pytest
from report_runs import cut, make_run

from giveback.errors import InputError
from giveback_lab.report.figure import write_png, write_svg

if TYPE_CHECKING:
    from pathlib import Path

    from giveback_lab.report.run import DemoRun

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
