"""Every reason why a VM's memory does not come back, each with its evidence and its remedy.

Without VM: all VMs of this host. The exit code is 1 if something keeps memory.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from giveback.accounting.diagnosis import Finding, Severity, findings
from giveback.commands import _daemon, _output, _target
from giveback.guest.observe import observe_host
from giveback.host.facts import read_facts
from giveback.host.readers import pool
from giveback.reporters import findings as reporter

if TYPE_CHECKING:
    import argparse

    from giveback.accounting.observation import Observation
    from giveback.errors import VmError

_CONFIG_TIMEOUT_S = 15.0
HELP = "why memory does not come back, with evidence and remedy"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _target.add_arguments(parser)
    _daemon.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    """Show the findings; return 1 if anything keeps memory."""
    _daemon.use(args)
    everyone = args.vm is None and args.pid is None
    skipped: list[VmError] = []
    # Before there is a thread.
    pool.shared().start()
    with ThreadPoolExecutor(max_workers=1) as beside:
        # The agent's command takes as long to start as the VMs take to answer.
        asked = beside.submit(machine_findings) if everyone else None
        seen = observe_host(layout=True, skipped=skipped) if everyone else [_one(args)]
        machine = asked.result() if asked else None
    found = [(one, findings(one, read_facts(one.vm.pid))) for one in seen]
    if args.json:
        _output.print_json(reporter.documents(found, machine))
    else:
        _output.print_page(reporter.text(found, machine))
    _output.tell_not_shown(skipped)
    return int(any(f.severity is Severity.KEEPS for _, listed in found for f in listed))


def _one(args: argparse.Namespace) -> Observation:
    return asyncio.run(_target.target(args).observe())


def machine_findings(root: str = "/") -> tuple[Finding, ...] | None:
    """Return the settings of this WSL 2 machine that have no effect; None if this is not WSL 2.

    The agent knows WSL's keys, and is asked through its command line: `giveback-agent config
    --json`. It may ask Windows for the profile's name, for a few seconds at most. Never raises.
    """
    command = [sys.executable, "-m", "giveback_agent", "--root", root, "config", "--json"]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=_CONFIG_TIMEOUT_S, check=True)
        said = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if said["wsl2"] is None:
        return None
    return tuple(
        Finding(
            Severity.MAY_KEEP,
            "a key in this WSL 2 machine's settings has no effect, or not the intended one",
            warning,
            "correct the key: `giveback-agent config` shows the settings in effect. WSL reads changed keys "
            "only after `wsl --shutdown`",
            read_more="docs/wsl.md",
        )
        for warning in said["warnings"]
    )
