"""The past of the host, or of one VM: a chart here, or JSON, CSV, SVG or PNG.

The file that the daemon writes is read directly; a user who may not read it, but may ask the
daemon, gets the same from there.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.arguments import span_of
from giveback.commands import _daemon, _output
from giveback.manager.history import chart, reader
from giveback.manager.http import requests
from giveback.manager.http.answers import plain

if TYPE_CHECKING:
    import argparse

    from giveback.manager.history.records import HistorySpan

HELP = "what the daemon recorded: memory over time, and what was done"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("vm", metavar="VM", nargs="?", help="a VM's name or key; without: the host")
    parser.add_argument(
        "--since",
        type=lambda text: span_of(text, "--since", requests.SPAN_LEAST_S, requests.SPAN_MOST_S),
        default=requests.SINCE_S,
        metavar="TIME",
        help="how far back: 15m, 2h, 7d, up to 90d (2h)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument("--csv", action="store_true", help="comma-separated values")
    form.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    form.add_argument("--png", type=Path, metavar="FILE", help="write a picture")
    parser.add_argument("--file", type=Path, metavar="PATH", help="the history's file")
    _daemon.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read the history, and show it in the requested form."""
    found = _found(args)
    if args.json:
        _output.print_json(plain(found))
    elif args.csv:
        print(chart.as_csv(found), end="")
    elif args.svg or args.png:
        from giveback.manager.history import figure  # noqa: PLC0415  # matplotlib takes a second

        path, kind = (args.svg, "svg") if args.svg else (args.png, "png")
        figure.write(found, path, kind)
        print(path)
    else:
        width = shutil.get_terminal_size().columns
        print(chart.chart(found, min(width, 160)))
        print(chart.actions_text(found))
    return 0


def _found(args: argparse.Namespace) -> HistorySpan:
    to_s = int(time.time()) + 1
    from_s = to_s - int(args.since)
    return _daemon.from_history(
        args,
        lambda path: reader.read(path, from_s, to_s, args.vm),
        lambda client: client.history(from_s, to_s, args.vm),
    )
