"""A report of use as one HTML page, which loads nothing else. Pure."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from giveback.reporters.tables.columns import short
from giveback.reporters.usage.tables import LEGEND, day, heads, owner_row, period, vm_row
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from giveback.manager.history.usage.totals import UsageReport, VmUsage

_BARS_SHOWN = 50


def page(report: UsageReport, users: Mapping[int, str]) -> str:
    """Return one HTML page that loads nothing else; every text in it is escaped."""
    vm_head, owner_head = heads(report)
    vm_rows = [vm_row(vm, report, users) for vm in report.vms]
    owner_rows = [owner_row(owner, report, users) for owner in report.owners]
    title = f"Memory used from {day(report.from_s)} to {day(report.to_s)}"
    said = "".join(f"<p>{html.escape(line)}</p>" for line in period(report))
    return _PAGE.format(
        title=html.escape(title), said=said, legend=html.escape(LEGEND),
        vms=_table(vm_head, vm_rows), owners=_table(owner_head, owner_rows),
        bars="".join(_bar(vm) for vm in report.vms[:_BARS_SHOWN]),
        reasons="".join(_reason(vm) for vm in report.vms),
    )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _reason(vm: VmUsage) -> str:
    return f"<dt>{html.escape(short(vm.name, 60))}</dt><dd>{html.escape(vm.advice.reason)}</dd>"


def _bar(vm: VmUsage) -> str:
    """Return a VM's RAM as a bar: needed half of the time, needed at most, and the advice as a mark."""
    ram, needed, advised = vm.ram_bytes or 1, vm.needed, vm.advice.ram_bytes
    parts = [(needed.most_bytes, "most"), (needed.p50_bytes, "half")]
    drawn = "".join(
        f'<rect class="{kind}" width="{min(100.0, value * 100 / ram):.1f}" height="10"/>'
        for value, kind in parts
        if value is not None
    )
    mark = ""
    if advised is not None:
        at = min(99.0, advised * 100 / ram)
        mark = f'<rect class="mark" x="{at:.1f}" width="1" height="10"/>'
    name = html.escape(short(vm.name, 40))
    svg = f'<svg viewBox="0 0 100 10" preserveAspectRatio="none">{drawn}{mark}</svg>'
    return f'<div class="bar"><span>{name}</span>{svg}<span>{size(vm.ram_bytes)}</span></div>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #ccc; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e6e6; --paper: #16181b; --line: #444; }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: right;
  white-space: nowrap; }}
th:first-child, td:first-child, td:nth-child(2), th:nth-child(2) {{ text-align: left; }}
dt {{ font-weight: 600; }}
.bar {{ display: grid; grid-template-columns: 12rem 1fr 6rem; gap: .7rem; align-items: center;
  margin: .2rem 0; }}
.bar svg {{ height: 1rem; width: 100%; background: color-mix(in srgb, var(--ink) 8%, transparent); }}
.half {{ fill: #0072b2; }} .most {{ fill: #56b4e9; }} .mark {{ fill: #d55e00; }}
</style></head><body>
<h1>{title}</h1>{said}
<h2>Owners</h2><div class="wide">{owners}</div>
<h2>RAM of each VM</h2>
<p>Dark: needed in half of the time. Light: needed at most. Mark: RAM that would have sufficed.</p>{bars}
<h2>VMs</h2><div class="wide">{vms}</div><p>{legend}</p>
<h2>Why</h2><dl>{reasons}</dl>
</body></html>
"""
