"""The `giveback` command line: one file in `giveback.commands` is one command.

Each module there has `HELP` (one line), `prepare_parser(parser)` and `run(args) -> exit code`.
Only the module of the command that is named is imported: `--help` reads the others' HELP from their text.
This module alone turns errors into text and exit codes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from giveback import commands
from giveback.errors import InputError
from giveback.interrupts import stopping
from giveback_kernel import __version__
from giveback_kernel.errors import GivebackError

if TYPE_CHECKING:
    from collections.abc import Sequence


GROUP = "giveback.commands"
LAB_COMMANDS = ("bench", "demo")


class Command(Protocol):
    """What a module in `giveback.commands`, or in another package of the entry-point group, offers."""

    HELP: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def command_files() -> dict[str, tuple[str, Path]]:
    """The commands there are, by name: each one's module and file. Underscored modules are none.

    Other distributions bring theirs as packages in the entry-point group `giveback.commands`.
    """
    found: dict[str, tuple[str, Path]] = {}
    for package in (commands.__name__, *(point.value for point in entry_points(group=GROUP))):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).glob("*.py")):
                if not path.stem.startswith("_"):
                    found.setdefault(path.stem, (f"{package}.{path.stem}", path))
    return found


def command_names() -> list[str]:
    """The names of the commands there are."""
    return sorted(command_files())


def help_of(name: str) -> str:
    """The command's HELP, without importing it; '' where its text has none."""
    import ast  # noqa: PLC0415

    found = command_files().get(name)
    if found is not None:
        for node in ast.parse(found[1].read_bytes()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HELP":
                return str(ast.literal_eval(node.value))
    return ""


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser for a command line: the command it names is in it whole, or all are by name.

    Raises InputError for a command of the lab where the lab is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="giveback", description="Gives a VM's unused memory back to its host."
    )
    parser.add_argument("--version", action="version", version=f"giveback {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    names = {name.replace("_", "-"): name for name in command_names()}
    named = next((word for word in words if not word.startswith("-")), "")
    if named not in names:
        if named in LAB_COMMANDS:
            raise InputError(
                f"{named}: comes with giveback-lab, which is not installed: pip install giveback-lab"
            )
        for shown, name in names.items():
            subparsers.add_parser(shown, help=help_of(name))
        return parser
    module = cast("Command", importlib.import_module(_module_of(names[named])))
    sub = subparsers.add_parser(
        named,
        help=module.HELP,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.prepare_parser(sub)
    sub.set_defaults(run=module.run)
    return parser


def _module_of(name: str) -> str:
    found = command_files().get(name)
    return found[0] if found else f"{commands.__name__}.{name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input, 128 + signal when stopped."""
    try:
        with stopping():
            words = list(sys.argv[1:] if argv is None else argv)
            args = build_parser(words).parse_args(words)
            return int(args.run(args))
    except GivebackError as error:
        print(f"giveback: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout again at exit: give it somewhere harmless to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
