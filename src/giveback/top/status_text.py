"""What a snapshot alone says of one VM: for a VM that cannot be asked, and for the past. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.reporters.charts.terminal import bar
from giveback.reporters.tables.columns import cut, size_or_unknown, width_of, wrapped
from giveback.top.lines import detail_lines
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.top.model import TopVm

_LABEL, _SIZE, _BAR = 46, 9, 24


def explained(vm: TopVm, width: int) -> str:
    """Return a VM's parts and ledger rows, the largest first, as text of at most `width` cells."""
    lines = [
        f"{vm.name} (pid {vm.pid}, {vm.backend or '?'}): RAM {size_or_unknown(vm.ram_bytes)}",
        "",
    ]
    if vm.parts is not None:
        p, whole = vm.parts, vm.ram_bytes or 0
        lines.append("RAM, by what could become of it:")
        amounts = {
            "needed: in use, without clean page cache": p.needed_bytes,
            "cache: clean page cache": p.cache_bytes,
            "trapped: free in the guest, still held": p.trapped_bytes,
            "  of it in blocks too small to be reported": vm.small_blocks_bytes or 0,
            "returned: held once, and no more": p.returned_bytes,
        }
        lines += _rows(amounts, whole, width)
    else:
        lines.append(
            f"{size_or_unknown(vm.resident_bytes)} resident; the rest is not known: {vm.unknown or '?'}"
        )
    for title, rows in (("the host charges:", vm.rows), ("of RAM, not resident:", vm.ram_rows)):
        if rows:
            most = dict(sorted(rows.items(), key=lambda item: -item[1]))
            lines += ["", title, *_rows(most, sum(most.values()), width)]
    if vm.returnable_bytes is not None:
        lines += [
            "",
            f"returnable: {size(vm.returnable_bytes)} (trapped memory, and cache beyond the floor)",
        ]
    return "\n".join(part for line in lines for part in wrapped(line, width))


def _rows(amounts: Mapping[str, int], whole: int, width: int) -> list[str]:
    label = max(12, min(_LABEL, width - _SIZE - 2))
    room = min(_BAR, width - label - _SIZE - 4)
    found = []
    for name, value in amounts.items():
        text = cut(name, label)
        drawn = f"  {bar(value, whole, room)}" if room >= 6 else ""
        found.append(f"{text}{' ' * (label - width_of(text))} {size(value):>{_SIZE}}{drawn}")
    return found


def findings_of(vm: TopVm) -> str:
    """Return what the daemon's own checks found of a VM."""
    lines = [f"{vm.name}: {vm.condition or '?'}"]
    lines += [f"  {text}" for text in (vm.condition_text, vm.unknown, *vm.doctor) if text]
    return "\n".join(lines) if len(lines) > 1 else f"{vm.name}: nothing found that keeps memory"


def short_of(vm: TopVm, width: int) -> str:
    """Return the detail lines as one text."""
    return "\n".join(detail_lines(vm, width))
