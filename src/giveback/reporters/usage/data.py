"""A report of use for programs: CSV, and the document of `--json`. Pure."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING

from giveback.manager.history.chart import cell_text
from giveback.reporters.usage.tables import cost_of, owner_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.history.usage.totals import OwnerUsage, UsageReport, VmUsage


def document(report: UsageReport, users: Mapping[int, str]) -> dict[str, object]:
    """Return the document of `--json`: the report's fields, owners by name, costs with a price."""
    made = asdict(report)
    found: tuple[VmUsage | OwnerUsage, ...] = (*report.vms, *report.owners)
    for item, one in zip([*made["vms"], *made["owners"]], found, strict=True):
        item["owner"] = owner_of(one.label, one.uid, users)
        item["cost"] = cost_of(one.amounts, report.price_per_gib_hour)
    return made


def as_csv(report: UsageReport, users: Mapping[int, str]) -> str:
    """Return one line a VM, the names of the columns first; amounts are bytes and GiB hours."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((
        "name", "backend", "owner", "label", "ram_bytes", "recorded_s", "unknown_s",
        "ram_gib_hours", "held_gib_hours", "needed_gib_hours", "returned_gib_hours", "p50_bytes",
        "p95_bytes", "p99_bytes", "most_bytes", "advice_bytes", "confidence", "reason", "more", "cost",
    ))  # fmt: skip
    for vm in report.vms:
        cost = cost_of(vm.amounts, report.price_per_gib_hour)
        writer.writerow((
            *map(cell_text, (vm.name, vm.backend, owner_of(vm.label, vm.uid, users), vm.label)),
            vm.ram_bytes, vm.recorded_s, vm.unknown_s,
            *(round(hours, 3) for hours in asdict(vm.amounts).values()),
            *asdict(vm.needed).values(), vm.advice.ram_bytes, vm.advice.confidence,
            cell_text(vm.advice.reason), vm.more, None if cost is None else round(cost, 4),
        ))  # fmt: skip
    return out.getvalue()
