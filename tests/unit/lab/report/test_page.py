"""The page: one file, all text escaped, nothing loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from report_runs import cut, make_run, patient, runs

from giveback.errors import InputError
from giveback_lab.report.page import demo_command, render_page, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from giveback_lab.report.run import DemoRun

VOID = {"meta", "link"}
HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\"&"


class Reader(HTMLParser):
    """Fails on tags that do not nest; collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@given(runs())
@patient
def test_every_page_nests_and_loads_nothing(run: DemoRun) -> None:
    reader = read(render_page(run))
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "srcset", "action"}
    assert not [name for name in names if name.startswith("on")]
    # A figure may refer to its own parts only.
    pointing = [value or "" for name, value in reader.attributes if name == "xlink:href"]
    assert all(value.startswith("#") for value in pointing)
    styles = [value or "" for name, value in reader.attributes if name in ("style", "clip-path")]
    assert not [value for value in styles if re.search(r"url\((?!#)|@import", value)]
    assert [value for name, value in reader.attributes if name == "href"] in (
        ["data:,"],
        ["data:,", "#figures"],
    )
    assert reader.tags.count("script") == 2


def test_hostile_guest_text_stays_text() -> None:
    run = make_run()
    giveback = replace(
        run.vms[1],
        description=HOSTILE,
        dmesg=(HOSTILE,),
        marks=tuple(replace(mark, label=HOSTILE) for mark in run.vms[1].marks),
        work_phases=tuple(replace(phase, name=HOSTILE) for phase in run.vms[1].work_phases),
    )
    hostile = replace(run, vms=(run.vms[0], giveback), host=HOSTILE, accel=HOSTILE)
    page = render_page(hostile, command=HOSTILE)
    reader = read(page)
    assert "img" not in reader.tags
    assert reader.tags.count("script") == 2
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert any("<script>alert(1)" in text for text in reader.text)


def test_the_policy_names_the_script_and_the_data_are_json() -> None:
    page = render_page(make_run())
    script = page.rsplit("<script>", 1)[1].split("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page
    data = re.search(r'id="samples">(.*?)</script>', page)
    assert data is not None
    plain, giveback = json.loads(data[1])
    assert (plain["name"], giveback["name"]) == ("plain", "giveback")
    assert len(giveback["t_s"]) == len(giveback["resident_mib"]) == len(giveback["residue_mib"])


def test_the_page_says_what_was_found_and_how() -> None:
    text = " ".join(read(render_page(make_run())).text)
    for told in (
        "The plain VM keeps 1.7 GiB, giveback returns to 0.3 GiB",
        "giveback: performing memory compaction",
        "residue 60 s after the work",
        "How it was measured",
        "7.2.17",
        "6.1.0-40-cloud-amd64",
        "giveback demo --accel tcg --mem 2G --cpus 2",
    ):
        assert told in text


@pytest.mark.parametrize("until_s", [-99, -23.5, 70])
def test_runs_cut_short_have_a_page(until_s: float) -> None:
    read(render_page(cut(make_run(), until_s)))


def test_command() -> None:
    run = make_run("giveback")
    small = replace(run, vms=(replace(run.vms[0], ram_bytes=1536 << 20),), accel="other")
    assert demo_command(small) == "giveback demo --mem 1536M --cpus 2 --seed 1 --no-compare"
    assert demo_command(replace(run, vms=())) == "giveback demo --accel tcg --cpus 2 --seed 1"


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_page(make_run(), tmp_path / "demo.html")
    assert (tmp_path / "demo.html").read_text(encoding="utf-8").endswith("</html>\n")
    with pytest.raises(InputError, match="nowhere"):
        write_page(make_run(), tmp_path / "nowhere" / "demo.html")
