"""All VMs of this host, one line each: RAM, resident, needed, residue, and what keeps it.

residue is what the host still holds for nothing: free in the guest, resident here. `?` stands where
the guest's side is not known; `giveback doctor VM` says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.arguments import span_of
from giveback.commands import _daemon, _output
from giveback.guest.observe import observe_host
from giveback.reporters import vm_table

if TYPE_CHECKING:
    import argparse

HELP = "list this host's VMs: RAM, resident, needed, residue, trapped"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    _output.add_watch(parser)
    parser.add_argument(
        "--timeout",
        type=lambda text: span_of(text, "--timeout", _output.LEAST_S, _output.MOST_S),
        default=0.8,
        metavar="SECONDS",
        help="how long one VM may take to answer (0.8)",
    )
    _daemon.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show the VMs, once or again and again."""
    _daemon.use(args)
    return _output.repeat(lambda: _show(args), args.watch)


def _show(args: argparse.Namespace) -> None:
    observations = observe_host(timeout_s=args.timeout)
    if args.json:
        _output.print_json(vm_table.documents(observations), watched=args.watch)
    else:
        _output.print_page(vm_table.text(observations, _output.width()), watched=args.watch)
