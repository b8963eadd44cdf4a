"""The report's files: whole, the same for the same results, and safe to open."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from bench_results import VERSIONS, failed_result, make_results

from giveback.errors import InputError
from giveback_lab.bench.analysis.comparable import groups
from giveback_lab.bench.analysis.targets import findings
from giveback_lab.bench.report.markdown import markdown
from giveback_lab.bench.report.page import render_page
from giveback_lab.bench.report.tables import cells_csv
from giveback_lab.bench.report.text import bench_command, number, ordered
from giveback_lab.bench.report.write import most_telling, summary, telling_figure, write_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from giveback_lab.bench.model import CellResult

HOSTILE = (
    "</style><script>alert(1)</script>\"'><img src=x onerror=y>$\\frac{1}{0}$\x1b[31m\u202e\ud800"
)
ALONE = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Collect tags, texts, ids and the targets of links; fail on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ALONE:
            self.opened.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ALONE:
            self.opened.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def report_of(results: Sequence[CellResult], out: Path) -> dict[str, bytes]:
    paths = write_report(results, out)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def hostile() -> list[CellResult]:
    """Return results in which every value from a guest or a file is hostile."""
    results = []
    for result in make_results(strategies=("none", "reporting", "giveback"), rounds=1):
        named = HOSTILE if result.cell.strategy == "reporting" else result.cell.strategy
        vms = tuple(replace(vm, name=HOSTILE) for vm in result.vms)
        cell = replace(result.cell, strategy=named, kernel=HOSTILE, work=f"files {HOSTILE}")
        results.append(
            replace(result, cell=cell, vms=vms, versions={HOSTILE: HOSTILE},
                    started_at=HOSTILE, problems=(HOSTILE,))
        )  # fmt: skip
    return results


@pytest.fixture(scope="module")
def results() -> list[CellResult]:
    """Return three rounds of one workload, with a failed cell and one with a problem."""
    found = [*make_results(rounds=3), failed_result(number=2)]
    found[0] = replace(found[0], problems=("the host swapped",))
    return found


@pytest.fixture(scope="module")
def files(results: list[CellResult], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the complete report as files."""
    return report_of(results, tmp_path_factory.mktemp("report") / "new" / "folder")


def page_of(results: Sequence[CellResult]) -> str:
    """Return the page alone, without painting the figures' files."""
    in_order = ordered(results)
    found = groups(in_order)
    return render_page(in_order, found, findings(found))


def test_everything_is_written(files: dict[str, bytes]) -> None:
    assert set(files) == {
        *("report.html", "report.md", "results.json", "cells.csv", "samples.csv.gz"),
        *(
            f"figures/files-6.12-2048M-{name}.{kind}"
            for name in ("resident", "held", "cost", "telling")
            for kind in ("png", "svg")
        ),
    }
    page = files["report.html"].decode()
    for expected in ("Footprint after the work", "Residue after idle", "10.0.8", "giveback bench"):
        assert expected in page


def test_the_same_results_make_the_same_bytes(tmp_path: Path) -> None:
    results = make_results(strategies=("none", "giveback"), rounds=1)
    once = report_of(results, tmp_path / "a")
    assert once == report_of(list(reversed(results)), tmp_path / "b")
    assert not [name for name, data in once.items() if name.endswith(".svg") and b"dc:date" in data]


def test_the_page_is_sound_and_loads_nothing(files: dict[str, bytes]) -> None:
    page = Page(files["report.html"].decode())
    assert "script" not in page.seen
    assert len(page.ids) == len(set(page.ids))
    outside = [link for link in page.links if not link.startswith("#") and link != "data:,"]
    assert not outside
    assert not {link[1:] for link in page.links if link.startswith("#")} - set(page.ids)


def test_figures_in_the_page_take_its_colours(files: dict[str, bytes]) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", files["report.html"].decode(), re.DOTALL))
    assert "var(--giveback)" in drawn
    assert not re.findall(r": #[0-9a-f]{6}", drawn)
    assert "DejaVu" not in drawn


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_any_number_of_rounds(rounds: int) -> None:
    text = page_of(make_results(strategies=("none", "giveback"), rounds=rounds))
    assert ("one round, no spread known" in text) == (rounds == 1)


def test_several_works_and_kernels_have_a_section_each() -> None:
    results = make_results(("three-staggered",), ("none", "reporting", "giveback"), 1)
    older = [replace(r, cell=replace(r.cell, kernel="6.1")) for r in results]
    page = Page(page_of([*results, *older]))
    assert {"three-staggered-6.1-2048M", "three-staggered-6.12-2048M"} <= set(page.ids)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    found = report_of(hostile(), tmp_path)
    page = found["report.html"].decode()
    Page(page)
    assert "<script" not in page
    assert "onerror=y>" not in page
    assert "\x1b" not in page
    for name, data in found.items():
        if name.endswith((".csv", ".json", ".md")):
            assert b"\x1b" not in data, name
        assert "/" not in name.removeprefix("figures/")
    assert "\x1b" not in summary(hostile())


@pytest.mark.parametrize(
    "results",
    [
        [],
        [failed_result()],
        make_results(strategies=("giveback",), rounds=1),
        make_results(("hogs",), ("reporting", "none"), rounds=1),
    ],
    ids=["nothing", "all-failed", "giveback-alone", "no-giveback"],
)
def test_a_benchmark_that_was_stopped_is_reported(results: list[CellResult]) -> None:
    Page(page_of(results))
    assert summary(results).startswith("No target could be judged")


def test_nothing_at_all_is_reported(tmp_path: Path) -> None:
    assert set(report_of([], tmp_path)) == {
        *("report.html", "report.md", "results.json", "cells.csv", "samples.csv.gz")
    }


def test_missing_fields_are_dashes_and_are_said() -> None:
    results = [
        replace(r, vms=tuple(
            replace(vm, needed_bytes=None, reread_s=None,
                    samples=tuple(replace(s, non_free_bytes=None) for s in vm.samples))
            for vm in r.vms
        ))
        for r in make_results(strategies=("none", "giveback"), rounds=1)
    ]  # fmt: skip
    text = page_of(results)
    assert "of any cell:" in text
    assert "residue after idle" in text.split("of any cell:")[1]


def test_failed_cells_and_problems_are_told(
    results: list[CellResult], files: dict[str, bytes]
) -> None:
    text = files["report.html"].decode()
    assert "the guest has no DAMON_RECLAIM" in text
    assert "the host swapped" in text
    assert "Failed cells: 1" in summary(results)


def test_mixed_versions_are_told() -> None:
    results = make_results(strategies=("none", "giveback"), rounds=2)
    changed = [
        replace(r, versions={**r.versions, "agent": str(r.cell.round), "work": "same"})
        for r in results
    ]
    assert "giveback&#39;s agent: 2 versions" in page_of(changed)
    assert "more than one version" not in page_of(results)


def test_the_medians_as_markdown(results: list[CellResult]) -> None:
    found = groups(ordered([*results, *hostile()]))
    text = markdown(found, findings(found))
    assert "<script" not in text
    tables = [part.splitlines() for part in text.split("## ")[1:]]
    assert len(tables) == len([group for group in found if group.cells])
    for title, _, *rows in tables:
        cells = [re.split(r"(?<!\\)\|", row) for row in rows if row.startswith("|")]
        assert len({len(row) for row in cells}) == 1, title
    first = [row for row in tables[0] if row.startswith("|")][2:]
    assert first[0].startswith("| **giveback, adaptive**")
    least = [float(row.split(" | ")[1].split(" ")[0]) for row in first]
    assert least == sorted(least)
    (nothing,) = [row for row in first if row.startswith("| none")]
    assert nothing.count("| never ") == 2


def test_cells_as_csv() -> None:
    results = make_results(("files", "three-aligned"), ("none", "giveback"), rounds=1)
    rows = list(csv.DictReader(io.StringIO(cells_csv(groups(results)))))
    assert [(row["work"], row["strategy"], row["vm"]) for row in rows][:3] == [
        *(("files", "none", "vm0"), ("files", "giveback", "vm0")),
        ("three-aligned", "none", "vm0"),
    ]
    assert [row["vm"] for row in rows].count("all") == 2
    assert float(rows[1]["slow_ratio"]) > 0.9
    assert rows[0]["residue_cleaned_bytes"] == ""


def test_samples_as_csv(results: list[CellResult], files: dict[str, bytes]) -> None:
    text = gzip.decompress(files["samples.csv.gz"]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    first = results[0].vms[0].samples
    assert len(rows) == sum(len(vm.samples) for result in results for vm in result.vms)
    assert float(rows[5]["t_s"]) == pytest.approx(first[5].t_s, abs=0.006)
    assert int(rows[5]["resident_bytes"]) == first[5].resident_bytes
    assert "" in {row["non_free_bytes"] for row in rows}


def test_verdicts_as_json(files: dict[str, bytes]) -> None:
    written = json.loads(files["results.json"])
    assert written["versions"]["QEMU"] == [VERSIONS["QEMU"]]
    first = written["verdicts"][0]
    assert first["target"] == "footprint"
    assert first["rounds"] == 3
    assert first["low"] <= first["ratio"] <= first["high"]
    (setting,) = written["settings"]
    medians = setting["strategies"]["giveback"]["metrics"]["footprint_after_gib_min"]
    assert medians["low"] <= medians["median"] <= medians["high"]
    assert setting["failed"][0]["strategy"] == "damon-reclaim"


def test_the_summary_names_what_was_missed(results: list[CellResult]) -> None:
    text = summary(results)
    assert text.startswith("giveback meets")
    assert "Missed:" in text
    assert "wsl-gen2-dropcache" in text


def test_the_most_telling_figure(tmp_path: Path) -> None:
    results = make_results(("hogs", "build"), ("none", "giveback"), rounds=1)
    found = most_telling(groups(results))
    assert found is not None
    assert found.setting.work == "build"
    more = make_results(("hogs",), ("none", "reporting", "giveback"), rounds=1)
    fuller = most_telling(groups([*results, *more]))
    assert fuller is not None
    assert fuller.setting.work == "hogs"
    telling_figure(results, tmp_path / "a.png")
    telling_figure(results, tmp_path / "a.svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"A build" in (tmp_path / "a.svg").read_bytes()
    with pytest.raises(InputError, match="no workload was measured"):
        telling_figure([failed_result()], tmp_path / "b.png")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_report(make_results(rounds=1), tmp_path / "file")
    with pytest.raises(InputError, match="nowhere"):
        telling_figure(make_results(rounds=1), tmp_path / "nowhere" / "a.png")


def test_the_order_is_the_reports_not_the_files() -> None:
    results = make_results(("hogs", "build"), ("giveback", "reporting", "none"), rounds=1)
    older = replace(results[0], cell=replace(results[0].cell, kernel="6.1"))
    order = [(r.cell.work, r.cell.kernel, r.cell.strategy) for r in ordered([*results, older])]
    assert order == [
        *(("build", "6.12", name) for name in ("none", "reporting", "giveback")),
        ("hogs", "6.1", "giveback"),
        *(("hogs", "6.12", name) for name in ("none", "reporting", "giveback")),
    ]


def test_the_command_repeats_the_measuring() -> None:
    command = bench_command(make_results(("files", "hogs"), ("none", "giveback"), rounds=3))
    assert command == (
        "giveback bench --strategies none,giveback --work files,hogs --kernels 6.12 "
        "--mem 2048M --runs 3"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.0123, "0.012"), (0.123, "0.12"), (1.234, "1.23"), (12.34, "12.3")),
        *((123.4, "123"), (1234.5, "1234"), (-1.5, "\u22121.50"), (-0.0001, "0.000")),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value).lstrip("-") == text
