"""Print a reporter's result: once, or every --watch seconds."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import TYPE_CHECKING

from giveback.arguments import span_of
from giveback.reporters.tables.columns import UNLIMITED
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from giveback.errors import VmError

_SKIPPED_LINES = 10
WATCH_HELP = "show it again every SECONDS (%(const)g)"
LEAST_S, MOST_S = 0.1, 86400.0
_CLEAR = "\033[H\033[2J"


def add_watch(
    parser: argparse.ArgumentParser, every_s: float = 2.0, text: str = WATCH_HELP
) -> None:
    """Add --watch; without SECONDS it is `every_s`."""
    parser.add_argument(
        "--watch",
        type=lambda text: span_of(text, "--watch", LEAST_S, MOST_S),
        metavar="SECONDS",
        nargs="?",
        const=every_s,
        help=text,
    )


def repeat(show: Callable[[], None], every_s: float | None) -> int:
    """Show once, or every `every_s` seconds until stopped; return the exit code 0."""
    while True:
        show()
        sys.stdout.flush()
        if not every_s:
            return 0
        time.sleep(every_s)


def width() -> int:
    """Return the maximum width of a table: the terminal's; unlimited in a pipe."""
    if not sys.stdout.isatty():
        return UNLIMITED
    return shutil.get_terminal_size((UNLIMITED, 24)).columns


def print_json(document: object, *, watched: float | None = None) -> None:
    """Print one JSON document, on a single line if `watched`."""
    print(json.dumps(document, indent=None if watched else 1))


def print_page(text: str, *, watched: float | None = None) -> None:
    """Print a text; if it is watched on a terminal it replaces the one before."""
    if watched and sys.stdout.isatty():
        print(_CLEAR, end="")
    print(text)


def not_shown(skipped: Sequence[VmError]) -> str:
    """Return a line for each process that could not be read and may run a VM; '' if there is none."""
    lines = [f"not shown: {escape_for_terminal(str(one), 300)}" for one in skipped[:_SKIPPED_LINES]]
    more = len(skipped) - len(lines)
    return "\n".join([*lines, *([f"not shown: {more} processes more"] if more else [])])


def tell_not_shown(skipped: Sequence[VmError]) -> None:
    """Print the same to stderr, beside a JSON document."""
    if skipped:
        print(f"giveback: {not_shown(skipped)}", file=sys.stderr)
