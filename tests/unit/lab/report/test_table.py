"""The final table."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from report_runs import cut, make_run, patient, runs
from rich.console import Console

from giveback_lab.report.table import figures_table, plain_table, print_report, table_rows

if TYPE_CHECKING:
    from giveback_lab.report.run import DemoRun


def test_the_whole_run() -> None:
    assert plain_table(make_run()) == (
        """\
                                        plain      giveback
peak resident                        1706 MiB      1510 MiB
resident at the work's end           1700 MiB      1150 MiB
resident now                         1704 MiB       310 MiB
non-free now                          728 MiB       195 MiB
reserved                               93 MiB        93 MiB
residue now                           883 MiB        22 MiB
residue 60 s after the work           882 MiB        46 MiB
returnable at the work's end         1399 MiB       852 MiB
half of it back after            not in 122 s         8.4 s
90 % of it back after            not in 122 s          31 s
footprint after the work, 120 s  3.34 GiB min  0.79 GiB min
the work took                         118.0 s       119.6 s
slowdown of the work                        -        +1.4 %
"""
    )


def test_without_a_plain_vm_nothing_is_compared() -> None:
    labels = [row.label for row in table_rows(make_run("giveback"))]
    assert "slowdown of the work" not in labels
    assert len(labels) == len(table_rows(make_run())) - 1


def test_what_was_not_measured_is_a_dash() -> None:
    rows = table_rows(cut(make_run(), -99))
    assert {cell for row in rows for cell in row.cells} == {"-"}


@given(runs())
@patient
def test_every_run_has_a_table(run: DemoRun) -> None:
    text = plain_table(run)
    assert text.isascii()
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    console.print(figures_table(run))
    assert all(len(row.cells) == len(run.vms) for row in table_rows(run))


def printed(run: DemoRun, encoding: str, *, is_terminal: bool) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        print_report(run, Console(file=file, width=80, force_terminal=is_terminal, _environ={}))
        file.flush()
        return raw.getvalue().decode(encoding)


def test_the_report_ends_with_the_finding_in_words() -> None:
    text = printed(make_run(), "utf-8", is_terminal=False)
    assert plain_table(make_run()) in text
    assert "\ndmesg in the giveback VM:\n  [  142.018312] giveback: memory is idle" in text
    assert text.endswith("longer than in the plain VM.\n")


def test_the_guest_cannot_drive_the_terminal_that_the_report_is_printed_on() -> None:
    run = make_run("giveback")
    hostile = replace(run.vms[0], dmesg=("[red]\x1b[2Jgr\u00fc\u00df\u202e",))
    text = printed(replace(run, vms=(hostile,)), "utf-8", is_terminal=True)
    assert "  [red]\\x1b[2Jgr\u00fc\u00df\\u202e\n" in text
    assert "\x1b[2J" not in text


@patient
@given(runs())
def test_the_report_can_be_printed_as_ascii(run: DemoRun) -> None:
    assert printed(run, "ascii", is_terminal=False).isascii()
