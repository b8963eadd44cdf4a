"""Man pages and shell completions, made from the parsers themselves."""

from __future__ import annotations

import gzip
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from release import settings_pages  # also where this file runs as a program

if TYPE_CHECKING:
    import argparse

    from release.release import Release

VM_NAMES = "giveback ps --names 2>/dev/null"
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
        settings = settings_pages.write(program, release.tree, out, release.epoch)
        overview = [overview_page(release, out)] if program == "giveback" else []
        for page in (settings, *overview):
            page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
            page.unlink()
        made += sorted(path for path in out.rglob("*") if path.is_file())
    return made


def overview_page(release: Release, out: Path) -> Path:
    """Write giveback(7), with the commit's day; return its file."""
    path = out / "usr/share/man/man7/giveback.7"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (release.tree / "packaging/pages/giveback.7").read_text()
    day = time.strftime("%Y-%m-%d", time.gmtime(release.epoch))
    path.write_text(text.replace("@DAY@", day))
    return path


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
    complete_vm_names(parser)
    path = out / "usr/share/man/man1" / f"{program}.1.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(man_page(program, parser).encode(), mtime=0))
    for shell in SHELLS:
        path = out / COMPLETIONS[shell].format(name=program)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shtab.complete(parser, shell))


def complete_vm_names(parser: argparse.ArgumentParser) -> None:
    """Have every argument that names a VM completed by the names of those that run."""
    import argparse  # noqa: PLC0415

    import shtab  # noqa: PLC0415

    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to its commands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for sub in action.choices.values():
                complete_vm_names(sub)
        elif action.metavar in ("VM", "NAME") and action.dest != "backend":
            action.complete = shtab.cmd(VM_NAMES)  # type: ignore[attr-defined]


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
