"""Put back what a killed agent left changed in the kernel: the report order.

The next start of the agent does the same; this is for a service that will not start again.
"""

from __future__ import annotations

from giveback_agent import deep_report, runtime
from giveback_agent.errors import AgentError, KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "put back what a killed agent left changed"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """`repair` has no options."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Repair, unless an agent runs: its changes are its own."""
    pid = runtime.running_pid(args.root)
    if pid is not None:
        print(f"an agent runs, pid {pid}: nothing to repair")
        return 0
    order = restore(args.root)
    print("nothing to repair" if order is None else f"restored: report order {order}")
    return 0


def restore(root: str) -> int | None:
    """Restore the report order; returns it, or None where nothing was left lowered.

    Raises AgentError where it could not be done: the state file is then kept.
    """
    try:
        return deep_report.repair(root).order
    except KernelFileError as error:
        raise AgentError(f"{error}: the report order is not restored: run this as root") from error
