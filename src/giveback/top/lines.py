"""The lines of `giveback top`: the host, the head and a line for each VM, fitted to a terminal's width. Pure.

A line is a list of (text, style) pieces that together take exactly the width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.reporters.tables.columns import cut, short, size_or_unknown, width_of
from giveback.top.bars import Segments, host_bar, sparkline, vm_bar
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.top.model import TopHost, TopSnapshot, TopVm
    from giveback.top.order import TopView

_GAP = " "
_STALLED_PERCENT, _SCARCE_PERCENT = 5.0, 10.0
"""A guest that waits more than this for memory, or has less than this available, is short of it."""
URGENCY_WORDS = {0: "plenty", 1: "soon short", 2: "short", 3: "critical"}


@dataclass(frozen=True, slots=True)
class Widths:
    """Cells of each column; 0: it does not fit."""

    name: int
    owner: int
    ram: int
    bar: int
    trend: int
    pressure: int
    condition: int
    verdict: int


def widths_for(width: int, *, has_trend: bool = True) -> Widths:
    """Return the columns for a terminal's width: what is needed least is left out first.

    The bar, which is the point of the picture, grows with the width; names and verdicts do, too.
    """
    if width < 50:
        return Widths(max(6, width - 30), 0, 8, max(4, min(20, width - 16)), 0, 0, 0, 0)
    if width < 80:
        rest = width - 8 - 10 - 4
        bar = rest // 2
        return Widths(rest - bar, 0, 8, bar, 0, 0, 10, 0)
    owner = 8 if width >= 100 else 0
    trend = 8 if width < 120 else 16 if width < 170 else 24
    trend = trend if has_trend else 0
    condition = 10 if width < 120 else 16
    fixed = owner + 8 + trend + 8 + condition + 5 + bool(owner) + bool(trend)
    rest = width - fixed
    name = min(32, max(12, rest * 26 // 100))
    bar = min(60, max(15, rest * 34 // 100))
    return Widths(name, owner, 8, bar, trend, 8, condition, rest - name - bar)


def head(width: int, view: TopView, *, has_trend: bool = True) -> Segments:
    """Return the head of the columns, with an arrow at the one that sorts."""
    w = widths_for(width, has_trend=has_trend)
    arrow = "▲" if view.is_reversed else "▼"
    names = {
        "NAME": w.name, "OWNER": w.owner, "RAM": w.ram, "MEMORY": w.bar, "TREND": w.trend,
        "PRESSURE": w.pressure, "CONDITION": w.condition, "LAST REQUEST": w.verdict,
    }  # fmt: skip
    sorted_by = {
        "name": "NAME", "owner": "OWNER", "ram": "RAM", "pressure": "PRESSURE",
        "condition": "CONDITION",
    }.get(view.sort, "MEMORY")  # fmt: skip
    cells = []
    for name, cells_wide in names.items():
        if not cells_wide:
            continue
        shown = name
        if name == "MEMORY" and sorted_by == name:
            shown = f"MEMORY {arrow}{view.sort}"
        elif name == sorted_by:
            shown = f"{arrow}{name}"
        right = name == "RAM"
        cells.append(_padded(cut(shown, cells_wide), cells_wide, right=right))
    return [(_padded(_GAP.join(cells), width), "head")]


def vm_line(vm: TopVm, values: Sequence[float | None] | None, width: int) -> Segments:
    """Return one VM's line; `values` are its resident bytes over the last minutes, oldest first.

    None: there is no column for them.
    """
    w = widths_for(width, has_trend=values is not None)
    line: Segments = [(_padded(short(vm.name, w.name), w.name), "")]
    if w.owner:
        line += [(_GAP + _padded(short(vm.owner or "?", w.owner), w.owner), "dim")]
    line += [(_GAP + size_or_unknown(vm.ram_bytes).rjust(w.ram), ""), (_GAP, "")]
    line += vm_bar(vm, w.bar)
    if w.trend and values is not None:
        line += [(_GAP + sparkline(values, float(vm.ram_bytes or 0), w.trend), "dim")]
    if w.pressure:
        words, style = pressure(vm)
        line += [(_GAP + _padded(cut(words, w.pressure), w.pressure), style)]
    if w.condition:
        style = "" if vm.condition in ("ok", "") else "warn"
        line += [(_GAP + _padded(short(vm.condition, w.condition), w.condition), style)]
    if w.verdict:
        line += [(_GAP + _padded(short(vm.verdict, w.verdict), w.verdict), "")]
    used = sum(width_of(text) for text, _ in line)
    return [*line, (" " * (width - used), "")] if used < width else line


def pressure(vm: TopVm) -> tuple[str, str]:
    """Return how short of memory a guest is, and the style: `12 %` stalled, `low 4 %` available."""
    available = vm.guest_available_percent
    is_scarce = available is not None and available < _SCARCE_PERCENT
    if vm.stall_percent is None:
        if available is None:
            return "-", "dim"
        return (f"low {available:.0f} %", "bad") if is_scarce else ("none", "dim")
    style = "bad" if vm.stall_percent >= _STALLED_PERCENT or is_scarce else "dim"
    return f"{vm.stall_percent:.1f} %", style


def host_lines(snapshot: TopSnapshot, width: int) -> list[Segments]:
    """Return two lines on the host: its bar with amounts, then urgency, forecast and pressure."""
    host = snapshot.host
    if host is None:
        return [[("HOST  not sampled yet".ljust(width)[:width], "dim")], [(" " * width, "")]]
    used = max(0, host.total_bytes - host.available_bytes)
    words = (
        f" {size(used)} of {size(host.total_bytes)} used, {size(host.available_bytes)} available"
    )
    cells = max(0, width - 6 - width_of(words))
    if cells < 8:
        words = cut(words, max(0, width - 6))
        cells = max(0, width - 6 - width_of(words))
    first: Segments = [("HOST  ", "head"), *host_bar(host, snapshot.vms, cells), (words, "")]
    words, style = host_words(host)
    return [first, [(_padded(cut(words, width), width), style)]]


def host_words(host: TopHost) -> tuple[str, str]:
    """Return urgency, forecast and pressure in words, and the style of their urgency."""
    parts = []
    urgency = host.urgency
    if urgency is None:
        parts.append("no daemon decides here")
    else:
        parts.append(f"urgency {urgency} ({URGENCY_WORDS.get(urgency, '?')})")
        if host.deficit_bytes > 0:
            parts.append(f"{size(host.deficit_bytes)} short")
        if host.trouble_in_s is None:
            parts.append("forecast: steady")
        else:
            parts.append(f"forecast: runs out in {span(host.trouble_in_s)}")
    if host.stall_some_percent is not None:
        full = host.stall_full_percent
        more = "" if full is None else f", full {full:.1f} %"
        parts.append(f"pressure {host.stall_some_percent:.1f} %{more}")
    if host.swap_free_bytes is not None:
        parts.append(f"free swap {size(host.swap_free_bytes)}")
    styles = {0: "good", 1: "", 2: "warn", 3: "bad"}
    return " · ".join(parts), styles.get(urgency or 0, "") if urgency is not None else "dim"


def detail_lines(vm: TopVm, width: int) -> list[str]:
    """Return two lines on one VM: its parts in numbers, then its condition and last verdict in full."""
    held = size_or_unknown(vm.resident_bytes)
    if vm.parts is None:
        first = f"{held} resident; needed, cache and trapped are not known"
        first += f": {vm.unknown}" if vm.unknown else ""
    else:
        p = vm.parts
        trapped = f"trapped {size(p.trapped_bytes)}"
        if vm.small_blocks_bytes:
            trapped += f" ({size(vm.small_blocks_bytes)} in small blocks)"
        first = (
            f"{held} resident: needed {size(p.needed_bytes)}, cache {size(p.cache_bytes)}, {trapped}; "
            f"returned {size(p.returned_bytes)}"
        )
        if vm.returnable_bytes is not None:
            first += f"; returnable {size(vm.returnable_bytes)}"
    second = "; ".join(
        words
        for words in (
            vm.condition if not vm.condition_text else f"{vm.condition}: {vm.condition_text}",
            "" if vm.urgency is None else f"urgency {vm.urgency}",
            vm.verdict,
        )
        if words
    )
    name = short(vm.name, 32)
    return [cut(f"{name} (pid {vm.pid}): {first}", width), cut(second, width)]


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(0, width - width_of(text))
    return space + text if right else text + space
