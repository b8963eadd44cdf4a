"""The `giveback` command line: one file in `giveback.commands` is one command.

Each module there has `HELP` (one line), `prepare_parser(parser)` and `run(args) -> exit code`.
This module alone turns errors into text and exit codes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Protocol, cast

from giveback import __version__, commands
from giveback.errors import GivebackError
from giveback.stop import stopping

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(Protocol):
    """What a module in `giveback.commands` offers."""

    HELP: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def command_names() -> list[str]:
    """The commands there are: the modules of `giveback.commands`, underscored ones left out."""
    found = (m.name for m in pkgutil.iter_modules(commands.__path__))
    return sorted(n for n in found if not n.startswith("_"))


def build_parser() -> argparse.ArgumentParser:
    """The whole command line's parser, every command in it."""
    parser = argparse.ArgumentParser(
        prog="giveback", description="Gives a VM's unused memory back to its host."
    )
    parser.add_argument("--version", action="version", version=f"giveback {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in command_names():
        module = cast("Command", importlib.import_module(f"giveback.commands.{name}"))
        sub = subparsers.add_parser(
            name.replace("_", "-"),
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
            args = build_parser().parse_args(argv)
            return int(args.run(args))
    except GivebackError as error:
        print(f"giveback: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout again at exit: give it somewhere harmless to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
