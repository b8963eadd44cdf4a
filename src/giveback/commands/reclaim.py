"""Make room on the host now: the daemon takes SIZE from the VMs, those that lose least first.

Exit code 0: it was reached. 4: it was not; what came is kept. 3: no daemon runs.
"""

from __future__ import annotations

import argparse

from giveback.commands import _daemon, _output
from giveback.errors import InputError
from giveback.manager.http import requests
from giveback.reporters import reclaimed
from giveback.text import size_argument

HELP = "make room on the host now: take this much from its VMs"
NOT_REACHED = 4


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("size", type=_size, metavar="SIZE", help="how much, such as 4G or 512M")
    parser.add_argument(
        "--within",
        type=_span,
        default=requests.WITHIN_S,
        metavar="TIME",
        help="how long it may take, such as 30s or 2m (30s)",
    )
    parser.add_argument(
        "--from",
        dest="vms",
        action="extend",
        nargs="+",
        default=[],
        metavar="VM",
        help="from these VMs only, by name, key or pid",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    _daemon.add_arguments(parser)


def _size(text: str) -> int:
    value = size_argument(text)
    if value > requests.GOAL_MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is more than any host has")
    return value


def _span(text: str) -> float:
    try:
        value = requests.parse_span(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value > requests.WITHIN_MOST_S:
        raise argparse.ArgumentTypeError(f"{text!r}: at most 1h")
    return value


def run(args: argparse.Namespace) -> int:
    """Ask, wait, and say what came from where."""
    result = _daemon.client(args).reclaim(args.size, args.within, args.vms)
    if args.json:
        _output.print_json(result)
    else:
        _output.print_page(reclaimed.text(result))
    return 0 if result["reached"] else NOT_REACHED
