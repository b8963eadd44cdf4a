"""Tell the running agent how badly the host needs memory, for a limited time.

0: the host has plenty, keep caches; 1: as if nobody had said anything; 2: tight; 3: starving, give
back everything cold now. A host manager sends the same; it ends by itself when the time is over.
"""

from __future__ import annotations

import os
import signal
import time

from giveback_agent.errors import AgentError, UsageError
from giveback_agent.runtime import run_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "say how badly the host needs memory (0 to 3)"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """The urgency, and for how long."""
    parser.add_argument("urgency", type=int, choices=range(4), metavar="0..3")
    parser.add_argument(
        "--for",
        dest="for_s",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="default: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Write the urgency and wake the agent."""
    if not 0 < args.for_s <= run_dir.URGENCY_MOST_S:
        raise UsageError(
            f"--for {args.for_s}: must be more than 0 and at most {run_dir.URGENCY_MOST_S:.0f} s"
        )
    pid = run_dir.running_pid(args.root)
    if pid is None:
        raise AgentError("no giveback-agent runs in this guest: start it with `giveback-agent run`")
    if not run_dir.write_urgency(args.root, args.urgency, time.monotonic() + args.for_s):
        raise AgentError(f"{run_dir.URGENCY_PATH}: cannot be written: run this as root")
    try:
        os.kill(pid, signal.SIGUSR1)
    except PermissionError as error:
        raise AgentError(
            f"pid {pid}: may not be signalled by this user: run this as root"
        ) from error
    print(f"urgency {args.urgency} for {args.for_s:.0f} s")
    return 0
