"""The sentences on a run; guest text in them is escaped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from report_runs import cut, make_run, patient, runs

from giveback_kernel.units import GIB, MIB
from giveback_lab.report.run import DemoRun, MarkKind
from giveback_lab.report.words import (
    action_text,
    headline,
    mib_text,
    percent_text,
    seconds_text,
    setting_text,
    sizes_text,
    summary_lines,
)


@pytest.mark.parametrize(
    ("kind", "label", "short"),
    [
        ("reclaim", "reclaim 64 MiB: cold cache", "64 MiB"),
        ("compact", "compact", ""),
        ("compact", "compact: 412 MiB is trapped", "412 MiB is trapped"),
        ("deep", "lower the report order to 0: idle", "order 0"),
        ("restore", "report order 9: work is back", "order 9"),
        ("report", "reported", "reported"),
        ("report", "", ""),
        ("deep", "x" * 100, "x" * 37 + "..."),
    ],
)
def test_an_action_says_what_its_row_does_not(kind: MarkKind, label: str, short: str) -> None:
    assert action_text(kind, label) == short


def test_sizes_in_a_sentence_have_one_unit() -> None:
    assert sizes_text(1704 * MIB, 310 * MIB) == ["1.7 GiB", "0.3 GiB"]
    assert sizes_text(400 * MIB, 31 * MIB) == ["400 MiB", "31 MiB"]


def test_numbers() -> None:
    assert mib_text(None) == "-"
    assert mib_text(1409 * MIB) == "1409 MiB"
    assert (seconds_text(8.44), seconds_text(31.4), seconds_text(None)) == ("8.4 s", "31 s", "-")
    assert percent_text(1.0136) == "+1.4 %"
    assert percent_text(0.98) == "-2.0 %"
    assert percent_text(0.9999) == "0.0 %"


@pytest.mark.parametrize(
    ("run", "finding"),
    [
        (make_run(), "The plain VM keeps 1.7 GiB, giveback returns to 0.3 GiB"),
        (make_run("giveback"), "giveback returns to 0.3 GiB from a peak of 1.5 GiB"),
        (make_run("plain"), "The plain VM keeps 1.7 GiB after its work"),
        (
            cut(make_run(), 70),
            "Cut short before the work's end: plain held 1.4 GiB, giveback held 0.9 GiB",
        ),
        (cut(make_run(), -99), "No samples: the run ended before anything was measured"),
        (
            replace(make_run(), vms=()),
            "No samples: the run ended before anything was measured",
        ),
    ],
)
def test_headline(run: DemoRun, finding: str) -> None:
    assert headline(run) == finding


def test_headline_claims_no_return_that_was_not() -> None:
    run = make_run()
    same = replace(run.vms[1], samples=run.vms[0].samples)
    run = replace(run, vms=(run.vms[0], same))
    assert headline(run) == "The plain VM holds 1.7 GiB, giveback 1.7 GiB"
    assert "came back" in summary_lines(run)[-1]


def test_summary() -> None:
    assert summary_lines(make_run()) == [
        "The same work left 1.7 GiB resident in the plain VM, 1.1 GiB in the giveback VM.",
        (
            "120 s after the work, the plain VM holds 1704 MiB (883 MiB of it free, still held) and "
            "the giveback VM holds 310 MiB (22 MiB of it free, still held)."
        ),
        (
            "In the giveback VM half of what it could return was back after 8 s and 90 % after "
            "31 s; its work took 1.4 % longer than in the plain VM."
        ),
    ]


@given(runs())
@patient
def test_something_is_said_of_every_run(run: DemoRun) -> None:
    lines = summary_lines(run)
    assert lines
    assert all(line.endswith(".") and line.isprintable() for line in lines)
    assert headline(run).isprintable()


def test_setting() -> None:
    assert setting_text(make_run()) == (
        "2 GiB RAM, 2 CPUs, QEMU 7.2.17 (tcg), Linux 6.1.0-40-cloud-amd64"
    )
    one = replace(make_run("giveback"), cpus=1)
    small = replace(one, vms=(replace(one.vms[0], ram_bytes=GIB + 300 * MIB),))
    assert setting_text(small).startswith("1324 MiB RAM, 1 CPU, ")
