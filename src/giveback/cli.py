"""The `giveback` command line: one file in `giveback.commands` is one command.

Each module there has `HELP` (one line), `prepare_parser(parser)` and `run(args) -> exit code`.
Only the module of the command that is named is imported: `--help` reads the others' HELP from their text.
This module alone turns errors into text and exit codes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from giveback import __version__, commands
from giveback.interrupts import stopping
from giveback_kernel.errors import GivebackError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(Protocol):
    """What a module in `giveback.commands` offers."""

    HELP: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def command_names() -> list[str]:
    """The commands there are: the modules of `giveback.commands`, underscored ones left out."""
    found = {path for folder in commands.__path__ for path in Path(folder).glob("*.py")}
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


def help_of(name: str) -> str:
    """The command's HELP, without importing it; '' where its text has none."""
    import ast  # noqa: PLC0415

    for folder in commands.__path__:
        path = Path(folder) / f"{name}.py"
        if path.is_file():
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HELP":
                    return str(ast.literal_eval(node.value))
    return ""


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser for a command line: the command it names is in it whole, or all are by name."""
    parser = argparse.ArgumentParser(
        prog="giveback", description="Gives a VM's unused memory back to its host."
    )
    parser.add_argument("--version", action="version", version=f"giveback {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    names = {name.replace("_", "-"): name for name in command_names()}
    named = next((word for word in words if not word.startswith("-")), "")
    if named not in names:
        for shown, name in names.items():
            subparsers.add_parser(shown, help=help_of(name))
        return parser
    module = cast("Command", importlib.import_module(f"giveback.commands.{names[named]}"))
    sub = subparsers.add_parser(
        named,
        help=module.HELP,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.prepare_parser(sub)
    sub.set_defaults(run=module.run)
    return parser


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
