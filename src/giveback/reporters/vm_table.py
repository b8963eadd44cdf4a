"""All VMs of a host, one line each; `giveback ps` shows it.

`?` stands where the guest's side is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from giveback.accounting.activity import UNKNOWN, Activity, percent_of, swapped_of
from giveback.accounting.ledger import OWN, Key
from giveback.accounting.observation import resident_of
from giveback.accounting.reporting import reporting_label
from giveback.accounting.returnable import returnable_of
from giveback.reporters.tables.columns import UNLIMITED, wrapped
from giveback.reporters.tables.problems import lines_of
from giveback.reporters.tables.vm_columns import PS, TableView, VmRow, in_order, table
from giveback.vmm.base import key_of
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from giveback.accounting.observation import Observation

_BAR = 16
_OF_THE_ROW = (
    *("name", "key", "pid", "owner", "ram_bytes", "resident_bytes", "host_percent"),
    *("charged_bytes", "own_bytes", "residue_bytes", "in_use_bytes", "cache_bytes"),
    *(
        "returned_bytes",
        "trapped_bytes",
        "returnable_bytes",
        "cpu_percent",
        "uptime_s",
        "swap_bytes",
    ),
    *("swap_in_bytes_per_s", "swap_out_bytes_per_s", "reporting"),
)
"""What `--json` says under the names of VmRow's fields."""


@dataclass(frozen=True, slots=True)
class HostSide:
    """Further data besides the observations: the host, and each VMM's process by its PID."""

    ram_bytes: int | None = None
    activities: Mapping[int, Activity] = field(default_factory=dict)
    owners: Mapping[int, str] = field(default_factory=dict)
    """Names of users; one who has none is shown by number."""


NOTHING = HostSide()


def text(
    observations: Iterable[Observation],
    width: int = UNLIMITED,
    host: HostSide = NOTHING,
    view: TableView | None = None,
) -> str:
    """Return a table with a bar each: needed, residue, and RAM that the host does not hold."""
    view = view or TableView()
    seen = in_order(observations, lambda one: _row(one, host), view)
    if not seen:
        return "\n".join(
            wrapped(
                "no VM runs on this host (QEMU, Cloud Hypervisor, Firecracker are known)", width
            )
        )
    lines = table([_row(one, host) for one in seen], PS, view, width)
    problems = lines_of(
        dict.fromkeys(
            (key_of(one.vm), escape_for_terminal(one.vm.name, 40), escape_for_terminal(p, 300))
            for one in seen
            for p in one.problems
        )
    )
    why = {
        f"{escape_for_terminal(one.vm.name, 40)}: ? as {escape_for_terminal(_why_unknown(one), 300)}"
        for one in seen
        if one.ledger is not None and one.ledger.unknown is not None
    }
    for line in (*sorted(dict.fromkeys(problems)), *sorted(why - set(problems))):
        lines += wrapped(line, width)
    return "\n".join(lines)


def documents(
    observations: Iterable[Observation],
    host: HostSide = NOTHING,
    view: TableView | None = None,
) -> list[dict[str, object]]:
    """Return the VMs for `--json`, one object each; all amounts are bytes, null is unknown."""
    seen = in_order(observations, lambda one: _row(one, host), view or TableView())
    return [_document(one, _row(one, host)) for one in seen]


def _row(seen: Observation, host: HostSide) -> VmRow:
    ledger, can_come = seen.ledger, returnable_of(seen)
    activity = host.activities.get(seen.vm.pid, UNKNOWN)
    resident_bytes = resident_of(seen)
    uid = activity.uid
    return VmRow(
        key=key_of(seen.vm),
        name=seen.vm.name,
        pid=seen.vm.pid,
        backend=seen.vm.backend,
        ram_bytes=_ram(seen),
        resident_bytes=resident_bytes,
        at_most_bytes=_at_most(seen),
        in_use_bytes=ledger.in_use_bytes if ledger else None,
        cache_bytes=ledger.cache_bytes if ledger else None,
        residue_bytes=ledger.residue_bytes if ledger else None,
        trapped_bytes=_trapped(seen),
        returnable_bytes=None if can_come is None else can_come.total_bytes,
        returned_bytes=ledger.returned_bytes if ledger else None,
        own_bytes=ledger.host(*OWN) if ledger else None,
        charged_bytes=ledger.charged_bytes if ledger else None,
        owner=None if uid is None else host.owners.get(uid, str(uid)),
        host_percent=percent_of(resident_bytes, host.ram_bytes),
        cpu_percent=activity.cpu_percent,
        uptime_s=activity.uptime_s,
        swap_bytes=swapped_of(seen.host, activity),
        swap_in_bytes_per_s=activity.swap_in_bytes_per_s,
        swap_out_bytes_per_s=activity.swap_out_bytes_per_s,
        reporting=reporting_label(seen.vm, seen.state, seen.guest),
        guest=_guest(seen),
        bar=bar(seen),
    )


def _why_unknown(seen: Observation) -> str:
    """Return why use and residue are unknown, and why no better source has them; "" if they are known."""
    unknown = None if seen.ledger is None else seen.ledger.unknown
    if unknown is None:
        return ""
    # An agent that gives no numbers just now is the reason, not who else gave older ones.
    reasons = (*seen.guest.problems[:1], unknown.why)
    return "; ".join(reasons if seen.guest.agent_is_there else reasons[::-1])


def _ram(seen: Observation) -> int | None:
    """Return the VM's RAM; None if neither its command line nor its VMM states it."""
    return (seen.ledger.ram_bytes if seen.ledger else seen.vm.ram_bytes) or None


def _trapped(seen: Observation) -> int | None:
    """Return the bytes held in small blocks; None if the residue is unknown."""
    if seen.ledger is None or seen.ledger.residue_bytes is None:
        return None
    return seen.ledger.host(Key.FREE_TRAPPED)


def _at_most(seen: Observation) -> int | None:
    """Return the bytes that the whole process holds."""
    return seen.host.resident_bytes if seen.host else seen.process_rss_bytes


def _guest(seen: Observation) -> str:
    age = seen.guest.age_s
    return f"{seen.guest.source}" + (f" {span(age)}" if age else "")


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


def _document(seen: Observation, row: VmRow) -> dict[str, object]:
    ledger = seen.ledger
    return {
        **{name: getattr(row, name) for name in _OF_THE_ROW},
        "vmm": row.backend,
        "needed_bytes": ledger.needed_bytes if ledger else None,
        "unknown": ledger.unknown.why if ledger and ledger.unknown else "",
        "balloon_bytes": seen.state.balloon_bytes,
        "capabilities": {
            name: str(getattr(seen.vm.capabilities, name))
            for name in ("reports_pages", "balloon", "statistics", "virtio_mem", "agent_channel")
        },
        "guest": {"source": str(seen.guest.source), "age_s": seen.guest.age_s},
        "problems": list(dict.fromkeys((*seen.problems, *seen.guest.problems))),
    }
