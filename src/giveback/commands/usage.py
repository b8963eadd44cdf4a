"""What VMs used over days, by VM and owner, and the RAM that would have sufficed for each.

The file that the daemon writes is read directly; a user who may not read it, but may ask the
daemon, gets the same from there. A label for a VM, and a price for a GiB hour, come from the
settings: docs/usage.md.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.arguments import span_of
from giveback.commands import _daemon, _output, _table
from giveback.errors import file_error
from giveback.manager.http import requests

if TYPE_CHECKING:
    import argparse

    from giveback.manager.history.usage.totals import UsageReport

HELP = "what VMs used over days, what it cost, and the RAM that would have sufficed"

_SPAN_LEAST_S, _SPAN_MOST_S = 900.0, 90 * 86400.0


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--since",
        type=lambda text: span_of(text, "--since", _SPAN_LEAST_S, _SPAN_MOST_S),
        default=requests.USAGE_SINCE_S,
        metavar="TIME",
        help="how far back: 12h, 7d, up to 90d (30d)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument("--csv", action="store_true", help="comma-separated values, one line a VM")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one HTML page")
    parser.add_argument("--file", type=Path, metavar="PATH", help="the history's file")
    _daemon.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read the history and show the report. Raises InputError and HistoryError."""
    from giveback.reporters.usage import data, page, tables  # noqa: PLC0415

    report = _report(args)
    users = _table.owners(vm.uid for vm in report.vms)
    if args.json:
        _output.print_json(data.document(report, users))
    elif args.csv:
        print(data.as_csv(report, users), end="")
    elif args.html:
        try:
            args.html.write_text(page.page(report, users), encoding="utf-8")
        except OSError as error:
            raise file_error(str(args.html), error, "--html writes the page there") from error
        print(args.html)
    else:
        print(tables.text(report, users, _output.width()))
    return 0


def _report(args: argparse.Namespace) -> UsageReport:
    from giveback.manager.history.usage.readable import ReadableHistory  # noqa: PLC0415
    from giveback.manager.settings.load import load  # noqa: PLC0415

    to_s = int(time.time()) + 1
    from_s = to_s - int(args.since)
    return _daemon.from_history(
        args,
        lambda path: ReadableHistory.of(path, load(args.settings)).usage(from_s, to_s),
        lambda client: client.usage(from_s, to_s),
    )
