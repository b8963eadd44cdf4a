"""Make room on the host now: the daemon takes SIZE from the VMs, those that lose least first.

Exit code 0: it was reached. 4: it was not; what came is kept. 3: no daemon runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.arguments import size_of, span_of
from giveback.commands import _daemon, _output
from giveback.manager.http import answers, requests
from giveback.reporters import reclaimed

if TYPE_CHECKING:
    import argparse

HELP = "make room on the host now: take this much from its VMs"
NOT_REACHED = 4
WITHIN_LEAST_S = 0.1


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "size",
        type=lambda text: size_of(text, "SIZE", requests.GOAL_MOST_BYTES),
        metavar="SIZE",
        help="how much, such as 4G or 512M",
    )
    parser.add_argument(
        "--within",
        type=lambda text: span_of(text, "--within", WITHIN_LEAST_S, requests.WITHIN_MOST_S),
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


def run(args: argparse.Namespace) -> int:
    """Ask, wait, and say what came from where."""
    result = _daemon.client(args).reclaim(args.size, args.within, args.vms)
    if args.json:
        _output.print_json(answers.plain(answers.reclaimed(result)))
    else:
        _output.print_page(reclaimed.text(result))
    return 0 if result.reached else NOT_REACHED
