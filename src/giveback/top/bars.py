"""Bars of a VM's four parts, of the host, and sparklines: whole cells whose characters differ without colour.

Pure: amounts in, (text, style) pairs out. A style is a name of `STYLES`, or "" for the terminal's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.reporters.charts.terminal import BLOCKS, HOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.top.model import TopHost, TopVm

Segments = list[tuple[str, str]]
"""Pieces of one line, each with the name of its style."""

PARTS = ("needed", "cache", "trapped", "returned")
GLYPHS = {
    "needed": "█", "cache": "▓", "trapped": "▒", "returned": "░",
    "held": "▞", "others": "=", "free": "·", "rest": "·",
}  # fmt: skip
"""`held`: resident, and the guest does not say for what. `rest`: never touched, or not plugged."""
STYLES = {
    # Okabe and Ito's palette: it can be told apart with every kind of colour blindness.
    "needed": "#56B4E9", "cache": "#F0E442", "trapped": "#D55E00", "returned": "#009E73",
    "held": "#CC79A7", "others": "#999999", "free": "#666666", "rest": "#666666",
    "good": "#009E73", "warn": "#E69F00", "bad": "#D55E00", "dim": "#8A8A8A", "head": "bold",
}  # fmt: skip


def shares(amounts: Sequence[int], whole: int, cells: int) -> list[int]:
    """Return how many of `cells` each amount gets, `whole` being all of them.

    The sum is at most `cells`. An amount above zero gets a cell as long as there are enough: what is
    small must not vanish from a picture whose point it may be.
    """
    known = [max(0, amount) for amount in amounts]
    whole = max(whole, sum(known), 1)
    if cells <= 0:
        return [0] * len(known)
    exact = [amount * cells / whole for amount in known]
    found = [int(value) for value in exact]
    # A remainder of less than half a cell stays empty: the sum is rounded once, not each part.
    left = round(sum(exact)) - sum(found)
    by_rest = sorted(range(len(exact)), key=lambda at: found[at] - exact[at])
    for at in by_rest[:left]:
        found[at] += 1
    for at, amount in enumerate(known):
        if amount and not found[at]:
            found[at] += 1
            if sum(found) > cells:
                largest = max(range(len(found)), key=lambda place: found[place])
                found[largest] -= 1
    return found


def _drawn(names: Sequence[str], amounts: Sequence[int], whole: int, cells: int) -> Segments:
    counts = shares(amounts, whole, cells)
    made = [
        (GLYPHS[name] * count, name) for name, count in zip(names, counts, strict=True) if count
    ]
    rest = cells - sum(counts)
    return [*made, (GLYPHS["rest"] * rest, "rest")] if rest > 0 else made


def vm_bar(vm: TopVm, cells: int) -> Segments:
    """Return a VM's bar of exactly `cells` characters; without the guest's side, what is resident."""
    parts, ram = vm.parts, vm.ram_bytes or 0
    if parts is not None:
        amounts = (
            parts.needed_bytes, parts.cache_bytes, parts.trapped_bytes, parts.returned_bytes,
        )  # fmt: skip
        return _drawn(PARTS, amounts, ram, cells)
    if vm.resident_bytes is None or not ram:
        return [("?".ljust(cells)[:cells], "dim")]
    return _drawn(("held",), (vm.resident_bytes,), ram, cells)


def host_bar(host: TopHost, vms: Sequence[TopVm], cells: int) -> Segments:
    """Return the host's bar: its VMs' parts, all other use, and what is available."""
    sums = dict.fromkeys(("needed", "cache", "trapped", "held"), 0)
    for vm in vms:
        if vm.parts is None:
            sums["held"] += vm.resident_bytes or 0
        else:
            sums["needed"] += vm.parts.needed_bytes
            sums["cache"] += vm.parts.cache_bytes
            sums["trapped"] += vm.parts.trapped_bytes
    used = max(0, host.total_bytes - host.available_bytes)
    # Shared pages are counted by each VM: their sum may be more than the host uses.
    others = max(0, used - sum(sums.values()))
    return _drawn((*sums, "others"), (*sums.values(), others), host.total_bytes, cells)


def sparkline(values: Sequence[float | None], most: float, cells: int) -> str:
    """Return `cells` characters for all values, the newest at the right; a dot is unknown.

    Where there are more values than cells, each cell has the largest of its values.
    """
    if cells <= 0:
        return ""
    count = len(values)
    marks = []
    for at in range(min(cells, count)):
        start = at if count <= cells else at * count // cells
        end = at + 1 if count <= cells else (at + 1) * count // cells
        known = [value for value in values[start:end] if value is not None]
        if not known or most <= 0:
            marks.append(HOLE)
        else:
            step = round(min(1.0, max(0.0, max(known) / most)) * (len(BLOCKS) - 1))
            marks.append(BLOCKS[max(1, step)])
    return "".join(marks).rjust(cells)


def legend() -> Segments:
    """Return what each character of a bar stands for."""
    words = {
        "needed": "needed", "cache": "cache", "trapped": "trapped (free, still held)",
        "returned": "returned",
    }  # fmt: skip
    found: Segments = []
    for name, word in words.items():
        found += [(GLYPHS[name] * 2, name), (f" {word}  ", "")]
    return found
