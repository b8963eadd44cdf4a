"""Templates: every value is escaped, none may be missing, and each comes with the package."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from giveback.errors import InputError
from giveback_lab.report.html import render, script, write_page

if TYPE_CHECKING:
    from pathlib import Path

NASTY = "</style></script><img src=x onerror=y>'\"&"
EMPTY: dict[str, object] = {
    "about": "", "targets": [], "works": [], "busy": None, "several": False, "strategies": [],
    "versions": [], "missing": [], "command": "",
}  # fmt: skip


def test_a_value_is_escaped_wherever_it_stands() -> None:
    works = {
        "anchor": NASTY, "title": NASTY, "overview": [], "findings": [], "measured": True,
        "about": NASTY, "figures": [(NASTY, [NASTY])], "parts": [NASTY],
        "tables": [{"title": NASTY, "heads": [(NASTY, NASTY)], "rows": []}],
    }  # fmt: skip
    values: dict[str, object] = EMPTY | {
        "about": NASTY,
        "command": NASTY,
        "works": [works],
        "targets": [(NASTY,) * 2],
    }
    lists = {
        "missing": [(NASTY, [NASTY])],
        "versions": [(NASTY,) * 3],
        "strategies": [(NASTY,) * 3],
    }
    page = render("bench.html", title=NASTY, **(values | lists))
    assert NASTY not in page
    assert "<img" not in page
    assert page.count(str(escape(NASTY))) >= 20


def test_a_value_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("bench.html", **EMPTY)


def test_a_script_is_as_in_its_file_and_named_by_its_digest() -> None:
    text, digest = script("demo.js")
    file = resources.files("giveback_lab") / "templates" / "demo.js"
    assert str(text) == file.read_text(encoding="utf-8")
    assert len(digest) == 44


def test_a_page_is_written_whatever_characters_it_has(tmp_path: Path) -> None:
    write_page("a \ud800 b", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == b"a ? b"
    with pytest.raises(InputError, match="nowhere"):
        write_page("", tmp_path / "nowhere" / "a.html")
