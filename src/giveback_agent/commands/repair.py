"""Restore the kernel settings that a killed agent left changed.

These are the report order and delay, the length of the per-CPU lists, memory limits of cgroups, and the CPU
weight of the service. The next start of the agent does the same; this is for an agent that will not start
again.
"""

from __future__ import annotations

from giveback_agent.errors import AgentError
from giveback_agent.runtime import run_dir
from giveback_agent.service import repair

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "restore the kernel settings that a killed agent left changed"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options: it has none."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Repair, unless an agent runs: it needs its changes and restores them itself."""
    pid = run_dir.running_pid(args.root)
    if pid is not None:
        print(f"an agent runs (pid {pid}): nothing to repair")
        return 0
    restored = restore(args.root)
    print("\n".join([f"restored: {what}" for what in restored]) or "nothing to repair")
    return 0


def restore(root: str) -> list[str]:
    """Restore the settings that a killed agent left changed; return a text for each.

    Raises AgentError if one cannot be restored; its record is then kept.
    """
    done = repair.repair_all(root)
    if done.failed:
        raise AgentError(f"{done.failed[0]}: run this as root")
    return list(done.restored)
