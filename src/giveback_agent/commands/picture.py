"""Print the memory report of this guest as one JSON object, for `giveback explain --guest FILE` on the host.

With --pages it includes the use of each page (root only), which is read at SCHED_IDLE.
"""

from __future__ import annotations

from giveback_agent.host_link import json_lines
from giveback_agent.host_link.memory_event import memory_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "print this guest's memory report, for the host's ledger"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--pages", action="store_true", help="include the use of each page (root)")


def run(args: argparse.Namespace) -> int:
    """Print the memory report."""
    from giveback_agent.commands import status
    from giveback_agent.release.cache import cold_survey
    from giveback_agent.release.observe import Totals
    from giveback_agent.runtime import run_dir

    shown = memory_report(args.root, pages=args.pages, cgroups=True)
    memory = Totals(args.root).meminfo()
    said = status.read_status(args.root) if run_dir.running_pid(args.root) else None
    promised = cold_survey.promise(args.root, status.terms(args.root, said, memory), memory)
    print(json_lines.encode({**shown, **promised}))
    return 0


if __name__ == "__main__":
    import sys

    print(json_lines.encode(memory_report("/", pages="--pages" in sys.argv[1:], cgroups=True)))
