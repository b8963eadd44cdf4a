"""Print this guest's memory as one JSON object: for `giveback explain --guest FILE` on the host.

With --pages also what each page is used for (root only), read at SCHED_IDLE.
"""

from __future__ import annotations

from giveback_agent.host_link import json_lines
from giveback_agent.host_link.memory_event import picture

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "print this guest's memory for the host's ledger"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--pages", action="store_true", help="also what each page is used for")


def run(args: argparse.Namespace) -> int:
    """Print the object."""
    from giveback_agent.commands.status import learned_floor_bytes

    shown = picture(args.root, pages=args.pages, cgroups=True)
    print(json_lines.encode({**shown, "learned_floor_bytes": learned_floor_bytes(args.root)}))
    return 0


if __name__ == "__main__":
    import sys

    print(json_lines.encode(picture("/", pages="--pages" in sys.argv[1:], cgroups=True)))
