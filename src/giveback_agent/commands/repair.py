"""Put back what a killed agent left changed in the kernel: the report order, the per-CPU lists' length,
the service's share of the CPUs.

The next start of the agent does the same; this is for a service that will not start again.
"""

from __future__ import annotations

from giveback_agent.errors import AgentError
from giveback_agent.runtime import run_dir
from giveback_agent.service import repair

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "put back what a killed agent left changed"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """`repair` has no options."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Repair, unless an agent runs: its changes are its own."""
    pid = run_dir.running_pid(args.root)
    if pid is not None:
        print(f"an agent runs, pid {pid}: nothing to repair")
        return 0
    restored = restore(args.root)
    print("\n".join([f"restored: {what}" for what in restored]) or "nothing to repair")
    return 0


def restore(root: str) -> list[str]:
    """Restore what a killed agent left changed; returns what that was, in words.

    Raises AgentError where it could not be done: the record is then kept.
    """
    done = repair.repair_all(root)
    if done.failed:
        raise AgentError(f"{done.failed[0]}: run this as root")
    return list(done.restored)
