"""The table of issue 18's lines names tests that exist, and each line has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/operators-day.md"
_FILE = re.compile(r"(tests/[\w/]+\.py): ((?:test_\w+(?:, )?)+)")
UNTESTED = {"seconds of `ps`, `explain`, `--help`"}


def rows() -> list[tuple[str, str]]:
    """The lines of the issue, and the tests of each."""
    lines = [line.strip("| ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [line.split(" | ") for line in lines if line != "line | tests"]
    return [(line, tests) for line, tests in cells]


def named() -> list[tuple[str, str, str]]:
    return [
        (line, file, test)
        for line, tests in rows()
        for file, names in _FILE.findall(tests)
        for test in names.strip(", ").split(", ")
    ]


def test_each_line_names_a_test() -> None:
    lines = {line for line, _, _ in named()}
    assert {line for line, _ in rows()} - lines == UNTESTED
    assert len(lines) > 40
    assert "; test_" not in PAGE.read_text()


@pytest.mark.parametrize(("file", "test"), sorted({(file, test) for _, file, test in named()}))
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    found = re.search(rf"^\s*(?:async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
    assert found, "docs/operators-day.md names it: write its new name there"
