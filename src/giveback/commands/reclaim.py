"""Free memory on the host now: the daemon takes SIZE from the VMs, from those that lose least first.

SIZE needs a unit: 512M, 4G. If less can come than that, the possible amount is requested, and a
line says so. Exit code 0: it was reached. 4: it was not; what came is kept. 5: no VM can be asked.
3: no daemon runs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from giveback.arguments import size_with_unit_of, span_of
from giveback.commands import _daemon, _output
from giveback.manager.http import answers, requests
from giveback.reporters import reclaimed

if TYPE_CHECKING:
    import argparse

HELP = "free memory on the host now: take this much from its VMs"
NOT_REACHED = 4
WITHIN_LEAST_S = 0.1
NONE_TO_ASK = 5


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "size",
        type=_size,
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
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say which VM would be asked for how much, and at what cost",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    _daemon.add_arguments(parser)


def _size(text: str) -> int:
    least, most = requests.GOAL_LEAST_BYTES, requests.GOAL_MOST_BYTES
    return size_with_unit_of(text, "SIZE", least, most)


def run(args: argparse.Namespace) -> int:
    """Plan and announce, request, wait, and report what came from where."""
    client = _daemon.client(args)
    result = client.reclaim(args.size, args.within, args.vms, dry_run=True)
    if not args.dry_run and result.most_bytes:
        print(reclaimed.announcement(result), file=sys.stderr, flush=True)
        result = client.reclaim(args.size, args.within, args.vms)
    if args.json:
        _output.print_json(answers.plain(answers.reclaimed(result)))
    else:
        _output.print_page(reclaimed.text(result))
    if not result.most_bytes:
        return NONE_TO_ASK
    if args.dry_run:
        return 0 if result.most_bytes >= result.goal_bytes else NOT_REACHED
    return 0 if result.reached else NOT_REACHED
