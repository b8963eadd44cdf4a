"""All VMs of a host, one line each; `giveback ps` shows it.

`?` stands where the guest's side is not known.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from giveback.accounting.ledger import Key
from giveback.accounting.observation import resident_of
from giveback.accounting.reporting import Reporting, reporting_of
from giveback.reporters.columns import UNLIMITED, fitted, short, size_or_unknown
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback.accounting.observation import Observation

_BAR = 16
_HEAD = (
    "NAME", "PID", "VMM", "RAM", "RESIDENT", "IN USE", "CACHE", "FREE HELD", "SMALL BLOCKS",
    "RETURNED", "CHARGED", "REPORTING", "GUEST", "█ used ▒ free held",
)  # fmt: skip
_RIGHT = frozenset(_HEAD[3:11])
_LEAST_NEEDED = (
    "SMALL BLOCKS",
    "VMM",
    "CHARGED",
    "GUEST",
    _HEAD[-1],
    "RETURNED",
    "REPORTING",
    "PID",
)
_LEGEND = (
    "FREE HELD: free in the guest, still resident here (of it in SMALL BLOCKS that are not reported); "
    "RETURNED: held once, and no more; ?: not known"
)


def text(observations: Iterable[Observation], width: int = UNLIMITED) -> str:
    """Return a table with a bar each: needed, residue, and RAM that the host does not hold."""
    seen = _ranked(observations)
    if not seen:
        return "no VM runs on this host (QEMU, Cloud Hypervisor, Firecracker are known)"
    rows = [_cells(one) for one in seen]
    if len(seen) > 1:
        rows.append(_total(seen))
    lines = fitted(_HEAD, rows, _RIGHT, width, _LEAST_NEEDED)
    lines += textwrap.wrap(_LEGEND, width)
    problems = {
        f"{escape_for_terminal(one.vm.name, 40)}: {escape_for_terminal(p, 300)}"
        for one in seen
        for p in one.problems
    }
    why = {
        f"{escape_for_terminal(one.vm.name, 40)}: ? as {escape_for_terminal(one.ledger.unknown.why, 200)}"
        for one in seen
        if one.ledger is not None and one.ledger.unknown is not None
    }
    return "\n".join((*lines, *sorted(problems | why)))


def documents(observations: Iterable[Observation]) -> list[dict[str, object]]:
    """Return the VMs for `--json`, one object each; all amounts are bytes, null is unknown."""
    return [_document(one) for one in _ranked(observations)]


def _ranked(observations: Iterable[Observation]) -> list[Observation]:
    """Sort by residue, the most first; VMs whose residue is not known come last."""

    def rank(seen: Observation) -> tuple[int, str]:
        residue = seen.ledger.residue_bytes if seen.ledger else None
        return (-1 if residue is None else -residue - 2, seen.vm.name)

    return sorted(observations, key=rank)


def _cells(seen: Observation) -> tuple[str, ...]:
    ledger = seen.ledger
    resident = resident_of(seen)
    return (
        short(seen.vm.name, 32),
        str(seen.vm.pid),
        seen.vm.backend,
        size_or_unknown(_ram(seen)),
        size(resident) if resident is not None else f"≤{size_or_unknown(_at_most(seen))}",
        size_or_unknown(ledger.in_use_bytes if ledger else None),
        size_or_unknown(ledger.cache_bytes if ledger else None),
        size_or_unknown(ledger.residue_bytes if ledger else None),
        size_or_unknown(_trapped(seen)),
        size_or_unknown(ledger.returned_bytes if ledger else None),
        size_or_unknown(ledger.charged_bytes if ledger else None),
        reporting(seen),
        _guest(seen),
        bar(seen),
    )


def _ram(seen: Observation) -> int | None:
    """The VM's RAM; None where neither its command line nor its VMM tells."""
    return (seen.ledger.ram_bytes if seen.ledger else seen.vm.ram_bytes) or None


def _total(seen: Sequence[Observation]) -> tuple[str, ...]:
    """The sums of what is known; of VMs of which nothing is known there is a `?` above."""
    ledgers = [one.ledger for one in seen if one.ledger is not None]
    sums = [
        sum(one.ram_bytes for one in ledgers),
        sum(resident_of(one) or 0 for one in seen),
        sum(one.in_use_bytes or 0 for one in ledgers),
        sum(one.cache_bytes or 0 for one in ledgers),
        sum(one.residue_bytes or 0 for one in ledgers),
        sum(_trapped(one) or 0 for one in seen),
        sum(one.returned_bytes or 0 for one in ledgers),
        sum(one.charged_bytes for one in ledgers),
    ]
    return ("total", "", "", *(size(amount) for amount in sums), "", "", "")


def _trapped(seen: Observation) -> int | None:
    """Bytes held in small blocks; None where the residue is not known."""
    if seen.ledger is None or seen.ledger.residue_bytes is None:
        return None
    return seen.ledger.host(Key.FREE_TRAPPED)


def _at_most(seen: Observation) -> int | None:
    """Bytes that the whole process holds."""
    return seen.host.resident_bytes if seen.host else seen.process_rss_bytes


def _guest(seen: Observation) -> str:
    age = seen.guest.age_s
    return f"{seen.guest.source}" + (f" {age:.0f} s" if age else "")


def reporting(seen: Observation) -> str:
    """Return how far reporting has come; `blocked` where the VMM keeps what it takes."""
    found = reporting_of(seen.vm, seen.state, seen.guest)
    taken = found not in (Reporting.NO_DEVICE, Reporting.OFF)
    return "blocked" if taken and (seen.vm.blockers or seen.state.blockers) else str(found)


def bar(seen: Observation) -> str:
    """Draw RAM: full blocks are needed, shaded ones residue, dots not resident."""
    ledger = seen.ledger
    resident_bytes = resident_of(seen)
    if ledger is None or resident_bytes is None or ledger.ram_bytes <= 0:
        return ""
    scale = _BAR / ledger.ram_bytes
    resident = min(_BAR, round(resident_bytes * scale))
    if ledger.residue_bytes is None:
        return "▓" * resident + "·" * (_BAR - resident)
    residue = min(resident, round(ledger.residue_bytes * scale))
    return "█" * (resident - residue) + "▒" * residue + "·" * (_BAR - resident)


def _document(seen: Observation) -> dict[str, object]:
    ledger = seen.ledger
    return {
        "name": seen.vm.name,
        "pid": seen.vm.pid,
        "vmm": seen.vm.backend,
        "ram_bytes": _ram(seen),
        "resident_bytes": resident_of(seen),
        "charged_bytes": ledger.charged_bytes if ledger else None,
        "needed_bytes": ledger.needed_bytes if ledger else None,
        "residue_bytes": ledger.residue_bytes if ledger else None,
        "in_use_bytes": ledger.in_use_bytes if ledger else None,
        "cache_bytes": ledger.cache_bytes if ledger else None,
        "returned_bytes": ledger.returned_bytes if ledger else None,
        "unknown": ledger.unknown.why if ledger and ledger.unknown else "",
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
