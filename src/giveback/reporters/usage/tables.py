"""The tables of a report of use, and the words beside them. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from giveback.reporters.tables.columns import fitted, short, size_or_unknown, wrapped
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.history.usage.totals import Amounts, OwnerUsage, UsageReport, VmUsage

_VM_HEAD = (
    "VM", "OWNER", "RAM", "HELD", "NEEDED", "RETURNED", "P50", "P95", "P99", "MOST", "ADVICE", "SURE",
    "MORE",
)  # fmt: skip
_OWNER_HEAD = ("OWNER", "VMS", "HELD", "NEEDED", "RETURNED")
_COST = "COST"
_TEXT = ("VM", "OWNER", "SURE")
_LEAST_NEEDED = ("P50", "MORE", "P95", "RETURNED", "OWNER", "P99", "SURE", _COST)
_REASONS_SHOWN = 20
LEGEND = (
    "HELD, NEEDED, RETURNED: GiB hours that the host held, that the guest needed, and of free memory "
    "that the host had back. P50 to MOST: what was needed in all quarters of an hour. ADVICE: RAM that "
    "would have sufficed. MORE: how many more such VMs the host could have held at its worst moment."
)


def text(report: UsageReport, users: Mapping[int, str], width: int) -> str:
    """Return the tables and the reasons in lines of at most `width` cells."""
    if not report.vms:
        return "\n".join([*period(report), "no VM was recorded in that time"])
    vm_head, owner_head = heads(report)
    rows = [vm_row(vm, report, users) for vm in report.vms]
    owners = [owner_row(owner, report, users) for owner in report.owners]
    right = {*vm_head, *owner_head} - set(_TEXT)
    lines = [
        *period(report), "",
        *fitted(vm_head, rows, right, width, _LEAST_NEEDED), "",
        *fitted(owner_head, owners, right, width), "",
        *(f"{short(vm.name, 32)}: {vm.advice.reason}" for vm in report.vms[:_REASONS_SHOWN]), "",
        LEGEND,
    ]  # fmt: skip
    return "\n".join(part for line in lines for part in (wrapped(line, width) or [""]))


def heads(report: UsageReport) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the heads of the tables of VMs and of owners."""
    cost = () if report.price_per_gib_hour is None else (_COST,)
    return (*_VM_HEAD, *cost), (*_OWNER_HEAD, *cost)


def period(report: UsageReport) -> list[str]:
    """Return what was recorded, and what was not, in lines."""
    host = report.host
    lines = [
        (
            f"{day(report.from_s)} to {day(report.to_s)}: {_long(host.recorded_s)} recorded of "
            f"{_long(report.to_s - report.from_s)}"
        )
    ]
    if host.gaps:
        longest = max(host.gaps, key=lambda gap: gap.to_s - gap.from_s)
        lines.append(
            f"nothing is known of {_long(host.gaps_s)}, the longest part from {day(longest.from_s)} to "
            f"{day(longest.to_s)}: no daemon ran, or it recorded nothing"
        )
    if unknown := [vm for vm in report.vms if vm.unknown_s * 10 > vm.recorded_s]:
        names = ", ".join(short(vm.name, 32) for vm in unknown[:5])
        lines.append(
            f"what these needed is unknown for over a tenth of the time: {names}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        )
    if host.spare_bytes is not None:
        lines.append(
            f"the host always had {size(max(0, host.spare_bytes))} to spare above its mark"
            if host.spare_bytes > 0
            else f"the host had nothing to spare at its worst moment: {size(-host.spare_bytes)} too little"
        )
    return lines


def vm_row(vm: VmUsage, report: UsageReport, users: Mapping[int, str]) -> tuple[str, ...]:
    """Return the cells of one VM."""
    needed = vm.needed
    return (
        short(vm.name, 32), owner_of(vm.label, vm.uid, users), size(vm.ram_bytes),
        *_hours(vm.amounts),
        *map(size_or_unknown, (needed.p50_bytes, needed.p95_bytes, needed.p99_bytes, needed.most_bytes)),
        "-" if vm.advice.ram_bytes is None else size(vm.advice.ram_bytes),
        str(vm.advice.confidence),
        "?" if vm.more is None else str(vm.more),
        *_cost(vm.amounts, report),
    )  # fmt: skip


def owner_row(owner: OwnerUsage, report: UsageReport, users: Mapping[int, str]) -> tuple[str, ...]:
    """Return the cells of one owner."""
    name = owner_of(owner.label, owner.uid, users)
    return (name, str(owner.vms), *_hours(owner.amounts), *_cost(owner.amounts, report))


def _hours(amounts: Amounts) -> tuple[str, ...]:
    hours = (amounts.held_gib_hours, amounts.needed_gib_hours, amounts.returned_gib_hours)
    return tuple(f"{value:.1f}" for value in hours)


def _cost(amounts: Amounts, report: UsageReport) -> tuple[str, ...]:
    cost = cost_of(amounts, report.price_per_gib_hour)
    return () if cost is None else (f"{cost:.2f} {report.currency}".strip(),)


def cost_of(amounts: Amounts, price_per_gib_hour: float | None) -> float | None:
    """Return what the held memory cost; None without a price."""
    return None if price_per_gib_hour is None else amounts.held_gib_hours * price_per_gib_hour


def owner_of(label: str, uid: int | None, users: Mapping[int, str]) -> str:
    """Return the label, or the user's name, or its number; `?` if neither is known."""
    if label:
        return escape_for_terminal(label, 64)
    return "?" if uid is None else users.get(uid, str(uid))


def _long(seconds: float) -> str:
    """Return a time of hours or days."""
    hours = seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


def day(at_s: int) -> str:
    """Return a wall time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
