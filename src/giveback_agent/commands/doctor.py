"""Check every precondition for returning memory: verdict, evidence, and what to do.

Changes nothing. Any user may run it; it names the rights that are missing. Exit code 1 if a check is bad.
docs/agent.md explains the findings.
"""

from __future__ import annotations

import os
import sys

from giveback_agent.doctor import checks, facts
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.record import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from giveback_agent.doctor.checks import Check
    from giveback_agent.doctor.facts import Facts

HELP = "check every precondition: verdict, evidence, and what to do"

WIDTH_MOST = 110
WIDTH_LEAST = 40
WIDTH_PIPED = 100
VERDICT_WIDTH = max(len(verdict) for verdict in checks.VERDICTS)
SHOWN_LIMIT_CHARS = 600
COLOURS = {checks.OK: "32", checks.WARN: "33", checks.BAD: "1;31", checks.UNKNOWN: "36"}


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the verdicts; return 1 if one is bad, else 0."""
    found = facts.gather(args.root, args.set or [])
    verdicts = checks.judge(found)
    if args.json:
        import json

        print(json.dumps(to_json(found, verdicts), indent=2))
    else:
        print(to_text(found, verdicts, _width(), _use_colour()))
    return int(any(check.verdict == checks.BAD for check in verdicts))


def to_json(found: Facts, verdicts: Sequence[Check]) -> dict[str, Any]:
    """Return the verdicts as a document, with `evidence` and `remedy` unshortened."""
    return {
        "kernel": found.release,
        "root": found.is_root,
        "wsl2": found.wsl is not None,
        "summary": count(verdicts),
        "checks": [as_dict(check) for check in verdicts],
    }


def count(verdicts: Sequence[Check]) -> dict[str, int]:
    """Count the checks of each verdict."""
    return {v: sum(check.verdict == v for check in verdicts) for v in checks.VERDICTS}


def to_text(found: Facts, verdicts: Sequence[Check], width: int, colour: bool) -> str:
    """Return the verdicts in columns, each with its remedy and page below it, and the summary last."""
    import textwrap

    name_width = max(len(check.name) for check in verdicts)
    indent = " " * (VERDICT_WIDTH + name_width + 4)
    if width - len(indent) < WIDTH_LEAST:
        indent = " " * 4
    columns = max(WIDTH_LEAST, width - len(indent))
    lines = []
    for check in verdicts:
        evidence = textwrap.wrap(
            _short(check.evidence),
            columns,
            break_on_hyphens=False,
        ) or [""]
        head = _painted(f"{check.verdict:{VERDICT_WIDTH}}", check.verdict, colour)
        title = f"{head}  {check.name:{name_width}}  "
        if len(indent) == 4:
            lines += [title.rstrip(), *(indent + line for line in evidence)]
        else:
            lines += [title + evidence[0], *(indent + line for line in evidence[1:])]
        if check.remedy:
            remedy = textwrap.wrap(
                f"-> {escape_for_terminal(check.remedy, SHOWN_LIMIT_CHARS, '...')}",
                columns,
                subsequent_indent="   ",
                break_on_hyphens=False,
            )
            lines += [indent + line for line in remedy]
        if check.more:
            lines.append(f"{indent}   see {check.more}")
    return "\n".join([*lines, "", _summary(found, verdicts)])


def _summary(found: Facts, verdicts: Sequence[Check]) -> str:
    counts = ", ".join(f"{n} {verdict}" for verdict, n in count(verdicts).items() if n)
    where = f"Linux {_short(found.release)}{', WSL 2' if found.wsl else ''}"
    bad = [check.name for check in verdicts if check.verdict == checks.BAD]
    if bad:
        return (
            f"{counts}. Memory cannot go back to the host because of: {', '.join(bad)}. ({where})"
        )
    unsure = any(c.name == "page reporting" and c.verdict == checks.UNKNOWN for c in verdicts)
    end = "Unknown whether free memory goes back to the host" if unsure else "Free memory goes back"
    return f"{counts}. {end}. ({where})"


def _short(text: str) -> str:
    return escape_for_terminal(text, SHOWN_LIMIT_CHARS, "...")


def _painted(text: str, verdict: str, colour: bool) -> str:
    return f"\x1b[{COLOURS[verdict]}m{text}\x1b[0m" if colour else text


def _use_colour() -> bool:
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def _width() -> int:
    import shutil

    if not sys.stdout.isatty():
        return WIDTH_PIPED
    return min(WIDTH_MOST, shutil.get_terminal_size().columns)
