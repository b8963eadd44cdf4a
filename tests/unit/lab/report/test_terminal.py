"""The chart in a terminal, and the output without one."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import cut, make_run, patient, runs
from rich.console import Console

from giveback_lab.report.terminal import LiveChart, draw_chart, status_line

if TYPE_CHECKING:
    from giveback_lab.report.run import DemoRun

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def plain_rows(run: DemoRun, width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    return [row.plain for row in draw_chart(run, width, height, ascii_only=ascii_only)]


@given(runs(), st.integers(1, 200), st.integers(0, 60), st.booleans())
@patient
def test_every_chart_fits(run: DemoRun, width: int, height: int, ascii_only: bool) -> None:
    rows = draw_chart(run, width, height, ascii_only=ascii_only)
    assert len(rows) <= height
    for row in rows:
        assert row.cell_len <= width
        assert not CONTROL.search(row.plain)
        assert row.plain.isascii() or not ascii_only


def test_80_columns() -> None:
    rows = plain_rows(make_run(), 80, 21)
    assert len(rows) == 21
    assert rows[0].startswith("  \u2812\u2812 plain 1704 MiB, peak 1706 MiB")
    assert "work ends" in rows[1]
    assert rows[2].startswith("   2 GiB")
    assert rows[-4].startswith("       0 ") or rows[-5].startswith("       0 ")
    assert rows[-2].split() == ["agent", "\u25bc\u25bc\u25bc\u25a0\u25cf\u25c6", "\u25c6", "\u25b2"]
    words = "v reclaim x8 # compact o report * deep x2 ^ restore"
    assert plain_rows(make_run(), 80, 21, ascii_only=True)[-1].split() == words.split()


def test_a_tall_terminal_has_a_row_for_each_kind_of_action() -> None:
    rows = plain_rows(make_run(), 140, 38)
    assert rows[-5].startswith(" reclaim")
    assert rows[-5].endswith("8 \u00d7 64 MiB")
    assert rows[-4].endswith("\u25a0 412 MiB is free but trapped")
    assert rows[-1].endswith("\u25b2 order 9")


def test_the_curves_are_told_apart_without_colour() -> None:
    """Where the curves differ, the plain VM's dots are high above giveback's blocks."""
    rows = plain_rows(make_run(), 80, 21)[2:-5]
    last = [row.ljust(80)[78] for row in rows]
    dots = [at for at, mark in enumerate(last) if 0x2800 < ord(mark) < 0x2900]
    blocks = [
        at
        for at, mark in enumerate(last)
        if mark in "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
    ]
    assert dots
    assert blocks
    assert max(dots) < min(blocks)


def test_little_room_leaves_the_numbers() -> None:
    assert plain_rows(make_run(), 30, 8) == [
        "\u2812\u2812 plain 1704 MiB",
        "\u2588\u2588 giveback 310 MiB",
    ]
    assert plain_rows(make_run(), 80, 5) == [plain_rows(make_run(), 80, 21)[0]]
    assert plain_rows(make_run(), 80, 0) == []


@pytest.mark.parametrize("names", [("giveback",), ("plain",)])
def test_one_vm_alone(names: tuple[str, ...]) -> None:
    run = make_run()
    alone = replace(run, vms=tuple(vm for vm in run.vms if vm.name in names))
    rows = plain_rows(alone, 80, 21)
    assert len(rows) == 21
    assert names[0] in rows[0]


def test_no_samples_yet() -> None:
    rows = plain_rows(cut(make_run(), -99), 80, 21)
    assert rows[0] == "  \u2812\u2812 plain -, peak -    \u2588\u2588 giveback -, peak -"


def test_a_pipe_gets_a_line_each_five_seconds() -> None:
    file = io.StringIO()
    with LiveChart(Console(file=file, width=20)) as chart:
        for until_s in range(-30, 60):
            chart.update(
                cut(make_run(), until_s), "booting [red]" if until_s < 0 else "work\x1b[2J"
            )
    lines = file.getvalue().splitlines()
    assert lines[0] == "booting [red]"
    assert lines[1].startswith("  -24 s  plain")
    assert 15 <= len(lines) <= 19
    assert lines[-1].endswith("  work\\x1b[2J")
    assert "\x1b" not in file.getvalue()


def test_a_pipe_is_told_of_a_phase_shorter_than_five_seconds() -> None:
    file = io.StringIO()
    with LiveChart(Console(file=file, width=20)) as chart:
        for until_s, status in (
            (20, "begins soon"),
            (21, "at work"),
            (22, "at work"),
            (23, "over"),
        ):
            chart.update(cut(make_run(), until_s), status)
    told = [line.rpartition("  ")[2] for line in file.getvalue().splitlines()]
    assert told == ["begins soon", "at work", "over"]


def terminal(**options: object) -> tuple[io.StringIO, Console]:
    file = io.StringIO()
    settings = {"force_terminal": True, "width": 80, "height": 24, "_environ": {}} | options
    return file, Console(file=file, **settings)  # type: ignore[arg-type]


def test_a_terminal_gets_the_chart_and_its_cursor_back() -> None:
    file, console = terminal(color_system="truecolor")
    with LiveChart(console) as chart:
        chart.update(make_run(), "[bold]compacting[/bold]")
    text = file.getvalue()
    assert "\x1b[?25l" in text
    assert text.rstrip().endswith("\x1b[?25h")
    assert "38;2;213;94;0" in text
    assert "38;2;0;114;178" in text
    assert "[bold]compacting[/bold]" in text
    # Drawn once by the update and once more when it ends, each time with a row to spare.
    assert text.count("\n") <= 2 * 23


def test_no_color_is_obeyed() -> None:
    file, console = terminal(color_system="truecolor", no_color=True)
    with LiveChart(console) as chart:
        chart.update(make_run(), "compacting")
    assert "38;2" not in file.getvalue()


def test_the_terminal_is_left_well_when_the_run_fails() -> None:
    file, console = terminal()
    chart = LiveChart(console)

    def fail_at_work() -> None:
        with chart:
            chart.update(cut(make_run(), 20), "working")
            raise RuntimeError("guest")

    with pytest.raises(RuntimeError, match="guest"):
        fail_at_work()
    assert file.getvalue().rstrip().endswith("\x1b[?25h")


def test_a_dumb_terminal_gets_lines() -> None:
    file, console = terminal(_environ={"TERM": "dumb"})
    with LiveChart(console) as chart:
        chart.update(cut(make_run(), 20), "working")
    assert file.getvalue() == status_line(cut(make_run(), 20), "working") + "\n"
