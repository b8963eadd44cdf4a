"""All VMs of this host, one line each: RAM, resident, needed, residue, and what keeps it.

residue is what the host still holds for nothing: free in the guest, resident here. `?` stands where
the guest's side is not known; `giveback doctor VM` says why.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from giveback.accounting.ledger import Key
from giveback.commands import _target
from giveback.guest.observe import observe_host
from giveback.text import shown, size
from giveback.vmm.base import Answer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from giveback.accounting.observation import Observation

HELP = "list this host's VMs: RAM, resident, needed, residue, trapped"
_BAR = 16
_HEAD = (
    "NAME", "PID", "VMM", "RAM", "RESIDENT", "NEEDED", "RESIDUE", "TRAPPED", "REPORTING", "GUEST",
)  # fmt: skip


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument(
        "--watch",
        type=_target.seconds,
        metavar="SECONDS",
        nargs="?",
        const=2.0,
        help="show it again every SECONDS (2)",
    )
    parser.add_argument(
        "--timeout",
        type=_target.seconds,
        default=0.8,
        metavar="SECONDS",
        help="how long one VM may take to answer (0.8)",
    )


def run(args: argparse.Namespace) -> int:
    """Show the VMs, once or again and again."""
    while True:
        seen = sorted(observe_host(timeout_s=args.timeout), key=_rank)
        if args.json:
            print(json.dumps([as_json(one) for one in seen], indent=None if args.watch else 1))
        else:
            if args.watch and sys.stdout.isatty():
                print("\033[H\033[2J", end="")
            print(table(seen))
        sys.stdout.flush()
        if not args.watch:
            return 0
        time.sleep(args.watch)


def _rank(seen: Observation) -> tuple[int, str]:
    residue = seen.ledger.residue_bytes if seen.ledger else None
    return (-1 if residue is None else -residue - 2, seen.vm.name)


def table(observations: Sequence[Observation]) -> str:
    """The VMs as a table with a bar: needed, residue, and RAM that the host does not hold."""
    if not observations:
        return "no VM runs on this host (QEMU, Cloud Hypervisor, Firecracker are known)"
    rows = [_HEAD, *(_cells(seen) for seen in observations)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = []
    for index, row in enumerate(rows):
        cells = [
            cell.rjust(width) if 3 <= column <= 7 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        bar = bar_of(observations[index - 1]) if index else "█ needed ▒ residue"
        lines.append("  ".join((*cells, bar)).rstrip())
    problems = {
        f"{shown(seen.vm.name, 40)}: {shown(p, 300)}"
        for seen in observations
        for p in seen.problems
    }
    return "\n".join((*lines, *sorted(problems)))


def _cells(seen: Observation) -> tuple[str, ...]:
    ledger = seen.ledger
    resident = _resident(seen)
    return (
        shown(seen.vm.name, 32),
        str(seen.vm.pid),
        seen.vm.backend,
        size(ledger.ram_bytes if ledger else seen.vm.ram_bytes),
        _size(resident) if resident is not None else f"≤{_size(_at_most(seen))}",
        _size(ledger.needed_bytes if ledger else None),
        _size(ledger.residue_bytes if ledger else None),
        _size(_trapped(seen)),
        reporting(seen),
        _guest(seen),
    )


def _resident(seen: Observation) -> int | None:
    """Resident guest RAM; None where it cannot be told from the VMM's own memory."""
    return seen.host.ram_resident_bytes if seen.host and seen.host.placed else None


def _trapped(seen: Observation) -> int | None:
    """What is held in small blocks; None where the residue is not known."""
    if seen.ledger is None or seen.ledger.residue_bytes is None:
        return None
    return seen.ledger.host(Key.FREE_TRAPPED)


def _at_most(seen: Observation) -> int | None:
    """What the whole process holds."""
    return seen.host.resident_bytes if seen.host else seen.process_rss_bytes


def _size(value: int | None) -> str:
    return "?" if value is None else size(value)


def _guest(seen: Observation) -> str:
    age = seen.guest.age_s
    return f"{seen.guest.source}" + (f" {age:.0f} s" if age else "")


def reporting(seen: Observation) -> str:
    """Whether free pages are reported: `on`, `off`, `no device`, `not taken`, `blocked`,
    `offered` (whether the guest took it is not known), `?`."""
    capabilities = seen.vm.capabilities
    if capabilities.balloon is Answer.NO:
        return "no device"
    if capabilities.reports_pages is Answer.NO:
        return "off"
    if seen.vm.blockers or seen.state.blockers:
        return "blocked"
    if seen.state.reporting_negotiated is Answer.NO or seen.guest.reporting is False:
        return "not taken"
    if Answer.YES in (seen.state.reporting_negotiated, Answer.of(seen.guest.reporting)):
        return "on"
    return "offered" if capabilities.reports_pages is Answer.YES else "?"


def bar_of(seen: Observation) -> str:
    """RAM as a bar: full blocks are needed, shaded ones residue, dots not resident."""
    ledger = seen.ledger
    resident_bytes = _resident(seen)
    if ledger is None or resident_bytes is None or ledger.ram_bytes <= 0:
        return ""
    scale = _BAR / ledger.ram_bytes
    resident = min(_BAR, round(resident_bytes * scale))
    if ledger.residue_bytes is None:
        return "▓" * resident + "·" * (_BAR - resident)
    residue = min(resident, round(ledger.residue_bytes * scale))
    return "█" * (resident - residue) + "▒" * residue + "·" * (_BAR - resident)


def as_json(seen: Observation) -> dict[str, object]:
    """One VM for `--json`; all amounts are bytes, null is unknown."""
    ledger = seen.ledger
    return {
        "name": seen.vm.name,
        "pid": seen.vm.pid,
        "vmm": seen.vm.backend,
        "ram_bytes": ledger.ram_bytes if ledger else seen.vm.ram_bytes,
        "resident_bytes": _resident(seen),
        "charged_bytes": ledger.charged_bytes if ledger else None,
        "needed_bytes": ledger.needed_bytes if ledger else None,
        "residue_bytes": ledger.residue_bytes if ledger else None,
        "trapped_bytes": _trapped(seen),
        "reporting": reporting(seen),
        "balloon_bytes": seen.state.balloon_bytes,
        "capabilities": {
            name: str(getattr(seen.vm.capabilities, name))
            for name in ("reports_pages", "balloon", "statistics", "virtio_mem", "agent_channel")
        },
        "guest": {"source": str(seen.guest.source), "age_s": seen.guest.age_s},
        "problems": list(dict.fromkeys((*seen.problems, *seen.guest.problems))),
    }
