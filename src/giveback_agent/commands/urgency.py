"""Set how badly the host needs memory, for a limited time.

0: the host has plenty, so keep caches. 1: the default, without a host manager. 2: the host is short of
memory. 3: the host is out of memory, so return everything above the cache floor now, even while the guest
is busy. A host manager sends the same values. After the time the urgency is 1 again.
"""

from __future__ import annotations

import os
import signal
import time

from giveback_agent.errors import AgentError, UsageError
from giveback_agent.runtime import run_dir
from giveback_kernel.units import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "set how badly the host needs memory (0 to 3), for a limited time"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
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
    """Write the urgency and wake the running agent."""
    if not 0 < args.for_s <= run_dir.URGENCY_MOST_S:
        raise UsageError(
            f"--for {args.for_s}: must be more than 0 and at most {span(run_dir.URGENCY_MOST_S)}"
        )
    pid = run_dir.running_pid(args.root)
    if pid is None:
        raise AgentError("no giveback-agent runs in this guest: start it with `giveback-agent run`")
    if not run_dir.write_urgency(args.root, args.urgency, time.monotonic() + args.for_s):
        raise AgentError(f"{run_dir.URGENCY_PATH} cannot be written: run this as root")
    try:
        os.kill(pid, signal.SIGUSR1)
    except PermissionError as error:
        raise AgentError(
            f"this user may not signal the agent (pid {pid}): run this as root"
        ) from error
    print(f"urgency {args.urgency} for {span(args.for_s)}")
    return 0
