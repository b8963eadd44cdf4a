"""What the daemon knows and does: the host, its urgency and why, each VM, leases, problems.

Exit code 3: no daemon runs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from giveback.commands import _daemon, _output
from giveback.manager.http.answers import plain
from giveback.reporters import daemon_status

if TYPE_CHECKING:
    import argparse

    from giveback.manager.http.client import Client

HELP = "what the running daemon knows of this host and its VMs"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _daemon.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    _output.add_watch(parser)


def run(args: argparse.Namespace) -> int:
    """Show the status, once or again and again. Raises NoDaemonError (exit code 3)."""
    client = _daemon.client(args)
    return _output.repeat(lambda: _show(client, args), args.watch)


def _show(client: Client, args: argparse.Namespace) -> None:
    status = client.status()
    if args.json:
        _output.print_json(plain(status), watched=args.watch)
    else:
        _output.print_page(
            daemon_status.text(status, time.time(), _output.width()), watched=args.watch
        )
