"""The `giveback` command line: one file in `giveback.commands` is one command.

Each module there has `HELP` (one line), `prepare_parser(parser)` and `run(args) -> exit code`. Only
the module of the named command is imported: `--help` reads the HELP of the others from their text.
Other distributions are searched only if the command is not one of ours: importlib.metadata alone
would take a third of the time of `--help`. Only this module turns errors into text and exit codes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from giveback import commands
from giveback.errors import InputError
from giveback.interrupts import stopping
from giveback_kernel.errors import GivebackError
from giveback_kernel.version import version_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


GROUP = "giveback.commands"
LAB_COMMANDS = ("demo", "bench", "cache")
GROUPS = {
    "See where memory is": ("ps", "top", "explain", "doctor", "status", "history", "usage", "web"),
    "Get memory back": ("reclaim", "enable", "zipapp"),
    "Run the service": ("daemon",),
    "Try and measure": LAB_COMMANDS,
}
"""The commands of `giveback --help`, by what they are for; those of other distributions follow."""


class Command(Protocol):
    """The interface of a module in `giveback.commands`, or in another package of the entry-point group."""

    HELP: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return its exit code."""


def command_files() -> dict[str, tuple[str, Path]]:
    """Return the existing commands by name, each with its module and file, without underscored modules.

    Other distributions provide theirs as packages in the entry-point group `giveback.commands`.
    """
    found = _files_in(commands.__name__, commands.__path__)
    for point in entry_points(group=GROUP):
        from importlib.util import find_spec  # noqa: PLC0415

        spec = find_spec(point.value)
        folders = (spec.submodule_search_locations or ()) if spec else ()
        found = _files_in(point.value, folders) | found
    return found


def _files_in(package: str, folders: Iterable[str]) -> dict[str, tuple[str, Path]]:
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.py"))]
    names = [path for path in paths if not path.stem.startswith("_")]
    return {path.stem: (f"{package}.{path.stem}", path) for path in names}


class EntryPoint(NamedTuple):
    """A package that a distribution names in a group."""

    value: str


def entry_points(*, group: str) -> tuple[EntryPoint, ...]:
    """Return what installed distributions name in the group, in the order of sys.path.

    Reads each entry_points.txt as importlib.metadata does, without the 40 ms that its own imports
    take. Source: packaging.python.org/specifications/entry-points.
    """
    found: dict[EntryPoint, None] = {}
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                names = [e.name for e in entries if e.name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for name in sorted(names):
            try:
                text = Path(folder, name, "entry_points.txt").read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
            found |= dict.fromkeys(_points_in(text, group))
    return tuple(found)


def _points_in(text: str, group: str) -> list[EntryPoint]:
    """Return the group's part of an entry_points.txt."""
    section, points = "", []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif section == group and "=" in line and not line.startswith(("#", ";")):
            points.append(EntryPoint(line.partition("=")[2].strip()))
    return points


def command_names() -> list[str]:
    """Return the names of the existing commands."""
    return sorted(command_files())


def _help_in(path: Path) -> str:
    """Return the command's HELP without importing it; '' if its text has none."""
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith('HELP = "') and line.endswith('"') and "\\" not in line:
            return line[len('HELP = "') : -1]
    return _help_parsed(text)


def _help_parsed(text: str) -> str:
    """Return a HELP that is not one plain line; Python's parser takes 20 ms for it."""
    import ast  # noqa: PLC0415

    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HELP":
            return str(ast.literal_eval(node.value))
    return ""


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser for a command line: complete for the named command, else all commands by name.

    Raises InputError for a command of the lab if the lab is not installed.
    """
    parser, subparsers = _bare_parser()
    named = next((word for word in words if not word.startswith("-")), "")
    ours = _files_in(commands.__name__, commands.__path__).get(named.replace("-", "_"))
    if ours is None:
        names = {name.replace("_", "-"): name for name in command_names()}
        if named not in names:
            if named in LAB_COMMANDS:
                raise InputError(
                    f"{named}: comes with giveback-lab, which is not installed: "
                    "pip install giveback-lab"
                )
            files = command_files()
            for shown in names:
                # Without a help of its own it is a command all the same, and is listed by its group.
                subparsers.add_parser(shown)
            parser.formatter_class = argparse.RawDescriptionHelpFormatter
            parser.epilog = _grouped({shown: _help_in(files[n][1]) for shown, n in names.items()})
            return parser
        ours = command_files().get(names[named], (f"{commands.__name__}.{names[named]}", Path()))
    _add_command(subparsers, named, ours[0])
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser with every command complete, for man pages and completions."""
    parser, subparsers = _bare_parser()
    for name, (module, _) in command_files().items():
        _add_command(subparsers, name.replace("_", "-"), module)
    return parser


def _bare_parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction[Any]]:
    parser = argparse.ArgumentParser(
        prog="giveback", description="Gives a VM's unused memory back to its host."
    )
    parser.add_argument("--version", action="version", version=version_text("giveback"))
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def _add_command(subparsers: argparse._SubParsersAction[Any], name: str, path: str) -> None:
    module = cast("Command", importlib.import_module(path))
    sub = subparsers.add_parser(
        name,
        help=module.HELP,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.prepare_parser(sub)
    sub.set_defaults(run=module.run)


def _grouped(helps: dict[str, str]) -> str:
    """Return the commands with their help, by group, no wider than the terminal."""
    listed = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "Others": tuple(name for name in helps if name not in listed)}
    width = max(shutil.get_terminal_size().columns - 2, 40)
    indent = max(map(len, helps), default=0) + 4
    lines = []
    for title, names in groups.items():
        there = [name for name in names if name in helps]
        lines += ["", f"{title}:"] if there else []
        for name in there:
            text = textwrap.wrap(helps[name], width - indent) or [""]
            lines.append(f"  {name}".ljust(indent) + text[0])
            lines += [" " * indent + more for more in text[1:]]
    return "\n".join([*lines[1:], "", "`giveback COMMAND --help` says more about one."])


_WITH_DASHES = ("--sort", "--filter")
"""Options whose values may begin with a dash."""


def with_values(words: Sequence[str]) -> list[str]:
    """Return the words with `--sort -COLUMN` as one: argparse takes a value with a dash for an option."""
    joined: list[str] = []
    for word in words:
        is_value = bool(joined) and joined[-1] in _WITH_DASHES and word.startswith("-")
        if is_value and not word.startswith("--"):
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input, 128 + signal when stopped."""
    try:
        with stopping():
            words = with_values(sys.argv[1:] if argv is None else argv)
            args = build_parser(words).parse_args(words)
            return int(args.run(args))
    except GivebackError as error:
        print(f"giveback: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout again at exit: redirect it to a harmless file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
