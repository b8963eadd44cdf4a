"""Man pages and shell completions, made from the parsers themselves."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from release import settings_pages  # also where this file runs as a program

if TYPE_CHECKING:
    import argparse

    from release.release import Release

SHELLS = ("bash", "zsh", "fish")
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/{name}",
    "zsh": "usr/share/zsh/vendor-completions/_{name}",
    "fish": "usr/share/fish/vendor_completions.d/{name}.fish",
}
"""Where each shell looks, in the packages of all distributions."""


def build(release: Release) -> list[Path]:
    """Write `man/` and `completions/`, below paths as an installed system has them."""
    made = []
    for program in ("giveback-agent", "giveback"):
        out = release.folder("pages") / program
        release.python(Path(__file__).resolve(), program, out)
        page = settings_pages.write(program, release.tree, out, release.epoch)
        page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()
        made += sorted(path for path in out.rglob("*") if path.is_file())
    return made


def parser_of(program: str) -> argparse.ArgumentParser:
    """Return the whole parser of `giveback` or `giveback-agent`."""
    if program == "giveback-agent":
        from giveback_agent.__main__ import build_parser as agents  # noqa: PLC0415

        return agents()
    from giveback.cli import whole_parser  # noqa: PLC0415

    return whole_parser()


def write(program: str, out: Path) -> None:
    """Write one program's pages and completions below `out`."""
    import shtab  # noqa: PLC0415

    parser = parser_of(program)
    path = out / "usr/share/man/man1" / f"{program}.1.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(man_page(program, parser).encode(), mtime=0))
    for shell in SHELLS:
        path = out / COMPLETIONS[shell].format(name=program)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shtab.complete(parser, shell))


def man_page(program: str, parser: argparse.ArgumentParser) -> str:
    """Return the page of a program and its commands. The library dates it by SOURCE_DATE_EPOCH."""
    from argparse_manpage.manpage import Manpage  # noqa: PLC0415

    description = (parser.description or "").rstrip(".")
    data = {
        "prog": program,
        "description": description,
        "manual_title": "giveback",
        "project_name": "giveback",
    }
    page = str(Manpage(parser, _data=data))
    return page + "\n.SH SEE ALSO\n\\fBgiveback\\fR(1), \\fBgiveback\\-agent\\fR(1)\n"


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
