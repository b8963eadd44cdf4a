"""The words of docs/glossary.md: phrases that it replaces are not used, and docstrings are imperative.

Words that have a usual meaning as well (look, share, gain, work) are kept by review.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[3]
# Each with what to write instead.
BANNED = {
    r"anew": "again",
    r"for good": "permanently",
    r"lets? go of": "release",
    r"hands? on": "pass",
    r"by hand": "manually",
    r"nudge[sd]?": "trigger (a reporting pass)",
    r"rivals?": "other strategies, other reclaimers",
    r"for nothing": "held but unused; free in the guest, still held",
    r"none that there is": "unknown",
    r"so many (?:times|seconds|bytes|MiB)": "N times",
    r"no word (?:of|from|for)": "no message, no sample",
    r"nobody": "no process, no user",
    r"(?<!there )(?<!There )is no(?:ne)? (?!longer|more|less)\w+": "is not a ...",
    r"room is made|makes? room": "memory is reclaimed",
}
PATTERN = re.compile("|".join(rf"(?P<b{i}>\b(?:{p})\b)" for i, p in enumerate(BANNED)))
# A docstring of a function that begins so says what it returns, but not what it does.
NO_VERB = re.compile(
    "An?|All|Any|Both|Each|Every|How|Its?|None|Of|One|Some|That|The|Their|This|Those|"
    "What|When|Where|Whether|Which|Whose?|Why"
)


# The tests whose words are done; a new folder of tests is added here.
TESTS = (
    "tests/contract/commands",
    "tests/contract/guest",
    "tests/contract/host",
    "tests/contract/lab",
    "tests/contract/manager",
    "tests/contract/packages",
    "tests/contract/trust",
    "tests/contract/vmm",
    "tests/unit/accounting",
    "tests/unit/agent",
    "tests/unit/commands",
    "tests/unit/fuzz",
    "tests/unit/guest",
    "tests/unit/host",
    "tests/unit/kernel",
    "tests/unit/lab",
    "tests/unit/lab_guest",
    "tests/unit/manager",
    "tests/unit/reporters",
    "tests/unit/vmm",
    "tests/vm/agent",
    "tests/vm/lab",
)
MODULES = [
    path
    for folder in ("src", "tools", "benchmarks", *TESTS)
    for path in sorted((TOP / folder).rglob("*.py"))
]
PAGES = [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").rglob("*.md"))]
TEMPLATES = sorted((TOP / "src/giveback_lab/templates").iterdir())


def ids(paths: list[Path]) -> list[str]:
    return [path.relative_to(TOP).as_posix() for path in paths]


def found_in(text: str) -> Iterator[str]:
    for match in PATTERN.finditer(" ".join(text.split())):
        number = next(name for name, value in match.groupdict().items() if value)
        yield f"{match[0]!r}: write {list(BANNED.values())[int(number[1:])]!r}"


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of comments and strings; a string without a space is a name."""
    comments: list[str] = []
    begin = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            begin = begin or token.start[0]
            comments.append(token.string.lstrip("# "))
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT) and comments:
            yield begin, " ".join(comments)
            comments, begin = [], 0
        if token.type == tokenize.STRING and " " in token.string:
            yield token.start[0], token.string


def prose(page: str) -> str:
    """Return a page without code, which keeps the names of options and files."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"(?ms)^```.*?^```", "", page))


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_a_module_uses_the_glossarys_words(path: Path) -> None:
    wrong = [f"{n}: {what}" for n, text in sentences(path.read_text()) for what in found_in(text)]
    assert not wrong


@pytest.mark.parametrize("path", [*PAGES, *TEMPLATES], ids=ids([*PAGES, *TEMPLATES]))
def test_a_page_uses_the_glossarys_words(path: Path) -> None:
    assert not list(found_in(prose(path.read_text())))


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "tests" not in p.parts], ids=lambda p: p.stem
)
def test_a_functions_docstring_begins_with_what_it_does(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            begins = (ast.get_docstring(node) or "-").split()[0]
            is_property = any("property" in ast.unparse(d) for d in node.decorator_list)
            assert is_property or not NO_VERB.fullmatch(begins), (
                f"{node.lineno}: {node.name}: {begins}"
            )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("the list is read anew", True),
        ("the balloon was let go\n of", True),
        ("there is no such file", False),
        ("this file is no list", True),
        ("renewal, fornothing, handson", False),
    ],
)
def test_a_banned_phrase_is_found_also_across_lines(text: str, wrong: bool) -> None:
    assert bool(list(found_in(text))) == wrong
