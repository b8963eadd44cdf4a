"""The site's source: the repository's own pages at their own places, and an index of them."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOP = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")
FOLDERS = ("docs",)
_SECTION = re.compile(r"^## (.+)$")
_LINK = re.compile(r"\]\(([^)#\s]+\.md)\)")
_ELSEWHERE = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def stage(repository: Path, source: Path) -> None:
    """Copy the pages, and link what they name of the code to its path as text: the site has no code."""
    source.mkdir(parents=True)
    for name in TOP:
        shutil.copyfile(repository / name, source / name)
    for name in FOLDERS:
        shutil.copytree(repository / name, source / name, ignore=_not_shown)
    for page in source.rglob("*.md"):
        text = _without_code_links(page, source)
        if page.name == "report.md":
            # The benchmark's own report, which other tools show below a title of theirs.
            text = f"# Report of {page.parent.name}\n\n{text}"
        page.write_text(text)


def _not_shown(folder: str, names: list[str]) -> set[str]:
    del folder
    return {name for name in names if name in ("cells", "logs") or name.endswith((".json", ".csv"))}


def _without_code_links(page: Path, source: Path) -> str:
    def shown(match: re.Match[str]) -> str:
        path = (page.parent / match[1].partition("#")[0]).resolve()
        there = path.exists() and path.is_relative_to(source)
        return match[0] if there else "]"

    # `[words](path)` becomes `[words]`: the words are the path in all of them.
    return _ELSEWHERE.sub(shown, page.read_text())


def sections(repository: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the title of each section of docs/README.md, and its pages, as paths from the top."""
    title, found = "", list[str]()
    for line in (repository / "docs/README.md").read_text().splitlines():
        if match := _SECTION.match(line):
            # What stands before the first section is on the first page.
            if title:
                yield title, found
            title, found = match[1], []
        else:
            found += [_from_top(path) for path in _LINK.findall(line)]
    yield title, found


def _from_top(path: str) -> str:
    return path.removeprefix("../") if path.startswith("../") else f"docs/{path}"


_WELCOME = """\
# giveback

A VM's memory grows as its guest touches pages, and does not shrink when the workload ends. giveback makes
it shrink, and says where every byte is.

[Start in five minutes](docs/start.md), in a guest, on a host, or under WSL; or read
[what it is](README.md).
"""


def index(repository: Path, source: Path) -> str:
    """Return the site's first page: the readme, and every page once in a table of contents."""
    first = ["docs/start.md", "README.md", "docs/README.md"]
    listed, lines = set(first), [_WELCOME, *_toctree("Begin", first)]
    for title, pages in sections(repository):
        new = [page for page in dict.fromkeys(pages) if page not in listed]
        listed.update(new)
        lines += _toctree(title, new)
    lines += _toctree("Reference", sorted(_pages(source, "reference")))
    rest = sorted(
        set(_pages(source, "")) - listed - set(_pages(source, "reference")) - {"index.md"}
    )
    return "\n".join([*lines, *_toctree("More", rest)]) + "\n"


def _pages(source: Path, folder: str) -> Iterator[str]:
    for path in (source / folder).rglob("*.md"):
        yield str(path.relative_to(source))


def _toctree(caption: str, pages: list[str]) -> list[str]:
    if not pages:
        return []
    return ["```{toctree}", f":caption: {caption}", ":hidden:", "", *pages, "```", ""]
