"""giveback.conf(5) and giveback.toml(5), from the documents of the settings: tests keep these complete."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from release.release import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROW = re.compile(
    r"^\| (?P<key>`[^|]+`) \| (?P<default>[^|]*) \| (?P<values>[^|]*) \| (?P<reason>.*) \|$"
)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of section 5: its name, the document it is made of, and what it is about."""

    name: str
    source: str
    about: str
    others: str


PAGES = {
    "giveback-agent": Page(
        "giveback.conf",
        "docs/settings.md",
        "settings of giveback-agent, in a guest",
        "giveback-agent(1)",
    ),
    "giveback": Page(
        "giveback.toml",
        "docs/daemon-settings.md",
        "settings of giveback daemon, on a host",
        "giveback(1)",
    ),
}


def write(program: str, tree: Path, out: Path, epoch: int) -> Path:
    """Write the page of a program's settings below `out`. Raises ReleaseError if its table is not found."""
    page = PAGES[program]
    text = rendered(page, (tree / page.source).read_text(), epoch)
    path = out / "usr/share/man/man5" / f"{page.name}.5"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def rendered(page: Page, document: str, epoch: int) -> str:
    """Return the page as roff. Raises ReleaseError if the document has no table of keys."""
    day = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    lines = [
        f'.TH {roff(page.name.upper())} 5 "{day}" "giveback" "giveback"',
        ".SH NAME", f"{roff(page.name)} \\- {roff(page.about)}",
    ]  # fmt: skip
    rows = 0
    for part in document.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        lines.append(".SH " + roff(_plain(title).upper()))
        for line in _body(body):
            rows += line.startswith(".TP")
            lines.append(line)
        if rows:
            break
    if not rows:
        raise ReleaseError(f"{page.source}: no table of keys was found for {page.name}(5)")
    lines += [".SH SEE ALSO", roff(page.others)]
    return "\n".join(lines) + "\n"


def _body(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        matches = [
            match for line in lines if (match := _ROW.match(line)) and match["key"] != "`key`"
        ]
        if matches:
            for row in matches:
                yield from (".TP", f"\\fB{roff(_plain(row['key']))}\\fR")
                found = {name: _plain(text) for name, text in row.groupdict().items()}
                yield roff("{reason} Default: {default}. Values: {values}.".format(**found))
        elif all(re.match(r"\d\. |   ", line) for line in lines):
            for item in re.split(r"\n(?=\d\. )", paragraph):
                yield from (".IP", roff(_plain(" ".join(item.split()))))
        else:
            yield from (".PP", roff(_plain(" ".join(lines))))


def _plain(text: str) -> str:
    return _LINK.sub(r"\1", text).replace("`", "").strip()


def roff(text: str) -> str:
    """Escape text for roff: backslashes, hyphens, and a dot or an apostrophe at its start."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
