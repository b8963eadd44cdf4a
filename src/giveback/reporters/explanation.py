"""Where every byte of one VM is, as a waterfall of text and as a document; `giveback explain` shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from giveback.accounting.diagnosis import Remedy, remedies
from giveback.accounting.ledger import AMOUNTS, NEEDED, RESIDUE, Key, Ledger, Row
from giveback.accounting.next_steps import quoted
from giveback.accounting.observation import resident_of
from giveback.accounting.returnable import returnable_of
from giveback.reporters import cgroup_table, page_table
from giveback.reporters.charts.terminal import bar
from giveback.reporters.tables.columns import UNLIMITED, cut, size_or_unknown, wrapped
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from giveback.accounting.observation import Observation
    from giveback.accounting.usage import HostSnapshot

_LABEL, _BAR, _SIZE, _BASIS = 58, 24, 9, 15
"""Cells of a line of the waterfall: what, how much, a bar, and how that is known."""
_LEAST_BAR, _FULL_LABEL, _LEAST_LABEL = 6, 48, 12
_COST = frozenset(
    {
        Key.RAM_SWAPPED, Key.VMM, Key.VMM_SHARED, Key.VMM_SWAPPED, Key.PAGE_TABLES, Key.UNPLACED,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shape:
    """How wide the parts of a waterfall's line are, so that it fits a terminal."""

    label: int = _LABEL
    bar: int = _BAR
    has_basis: bool = True

    def line(self, label: str, value: int, whole: int, tail: str = "") -> str:
        drawn = f"  {bar(value, whole, self.bar):<{self.bar}}" if self.bar else ""
        return f"{self.label_of(label)} {size(value):>{_SIZE}}{drawn}{tail}".rstrip()

    def row(self, row: Row, whole: int) -> str:
        basis = f"  {row.basis}" if self.has_basis else ""
        return self.line(f"  {row.key}", row.host_bytes, whole, basis)

    def label_of(self, label: str) -> str:
        return f"{cut(label, self.label):<{self.label}}"


def _shape_of(width: int) -> _Shape:
    """Return the shape for a width: the bar goes first, then a part of the labels, then the basis."""
    spare = width - _LABEL - 1 - _SIZE - _BASIS
    if spare - 2 >= _LEAST_BAR:
        return _Shape(bar=min(_BAR, spare - 2))
    label = _LABEL + min(0, spare)
    if label >= _FULL_LABEL:
        return _Shape(label, 0)
    return _Shape(max(_LEAST_LABEL, min(_LABEL, label + _BASIS)), 0, has_basis=False)


def text(seen: Observation, width: int = UNLIMITED) -> str:
    """Return the waterfall, what would bring memory back, and the page tables if there are some.

    No line is wider than `width`, but those to paste into a shell.
    """
    ledger, host = seen.ledger, seen.host
    if ledger is None or host is None:
        return ""
    waterfall = _waterfall(seen, ledger, _shape_of(width))
    lines = [
        *_wrapped(_head(seen, ledger), width), "", *(cut(line, width) for line in waterfall),
        *_wrapped(_of_which(host), width),
    ]  # fmt: skip
    if seen.guest.cgroups:
        table = cgroup_table.text(seen.guest.cgroups).split("\n")
        lines += ["", *(cut(line, width) for line in table)]
    lines += ["", *_wrapped(_returnable(seen), width), *_remedies(remedies(seen), width)]
    lines += _wrapped(_notes(seen, ledger), width)
    if seen.exact is not None:
        lines += ["", *(cut(line, width) for line in page_table.text(seen.exact).split("\n"))]
    return "\n".join(lines)


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in wrapped(line, width)]


def _returnable(seen: Observation) -> list[str]:
    """Return the same amount as in the table of `ps` and `status`, by its parts."""
    can_come = returnable_of(seen)
    if can_come is None:
        return ["what would bring it back:"]
    parts = (
        f"{size(can_come.residue_bytes)} free but still held, {size(can_come.cold_bytes)} cold cache, "
        f"{size(can_come.warm_bytes)} warm cache"
    )
    return [
        f"returnable: {size(can_come.total_bytes)} ({parts})",
        "what would bring it back:",
    ]


def _notes(seen: Observation, ledger: Ledger) -> list[str]:
    lines = _kept(seen)
    if ledger.unknown is not None:
        command = f"giveback doctor {quoted(seen.vm)}"
        lines.append(f"to learn why the guest's side is not known: {escape_for_terminal(command)}")
    lines += [f"note: {escape_for_terminal(note, 300)}" for note in (*ledger.notes, *seen.vm.notes)]
    lines += [f"problem: {escape_for_terminal(problem, 300)}" for problem in seen.problems]
    return lines


def _head(seen: Observation, ledger: Ledger) -> list[str]:
    where = f"pid {seen.vm.pid}, {seen.vm.backend}"
    age = "" if not seen.guest.age_s else f", {span(seen.guest.age_s)} old"
    return [
        f"{escape_for_terminal(seen.vm.name, 60)} ({where}): RAM {size_or_unknown(ledger.ram_bytes or None)}",
        f"guest's side: {seen.guest.source}{age}",
    ]


def _waterfall(seen: Observation, ledger: Ledger, shape: _Shape) -> list[str]:
    whole, resident_bytes = ledger.charged_bytes, resident_of(seen)
    lines = [shape.line("the host charges", whole, whole)]
    lines += [shape.row(row, whole) for row in ledger.rows if row.key in _COST]
    if resident_bytes is not None:
        lines.append(shape.line("= guest RAM, resident", resident_bytes, whole))
    held = RESIDUE | {Key.GUEST_SILENT}
    lines += [shape.row(row, whole) for row in ledger.rows if row.key in held]
    if ledger.in_use_bytes is not None and ledger.cache_bytes is not None:
        lines.append(shape.line("= page cache, clean", ledger.cache_bytes, whole))
        lines.append(shape.line("= in use", ledger.in_use_bytes, whole))
        used = NEEDED - {Key.CACHE_CLEAN}
        lines += [
            shape.row(row, whole) for row in ledger.rows if row.key in used and row.host_bytes
        ]
    if ledger.unknown is not None:
        lines.append(f"  ? {escape_for_terminal(ledger.unknown.why, 200)}")
    lines += ["", "of RAM, not resident:"]
    lines += [
        f"{shape.label_of(f'  {row.key}')} {size(row.ram_bytes):>{_SIZE}}"
        for row in ledger.rows
        if row.ram_bytes and not row.host_bytes
    ]
    return lines


def _of_which(host: HostSnapshot) -> list[str]:
    """Return facts on the resident RAM; they overlap the rows and are not in the sum."""
    if not host.placed:
        return []
    split = max(0, host.ram_resident_bytes - host.ram_huge_bytes)
    shared = host.ram_resident_bytes - host.ram_pss_bytes
    facts = [
        (f"in huge pages {size(host.ram_huge_bytes)}, in small ones {size(split)}", True),
        (f"locked {size(host.ram_locked_bytes)}", bool(host.ram_locked_bytes)),
        (f"merged by KSM {size(host.ram_ksm_bytes)}", bool(host.ram_ksm_bytes)),
        (f"shared with other processes {size(shared)}", shared > 1 << 20),
    ]
    return ["of the resident RAM: " + "; ".join(words for words, there in facts if there)]


def _kept(seen: Observation) -> list[str]:
    """Return the cache that is not promised, and why."""
    learned, floor = seen.guest.learned_floor_bytes, seen.guest.cache_floor_bytes
    lines = []
    if learned:
        lines.append(
            f"  the guest's agent keeps {size(learned)} more that looks cold: it was read again before"
        )
    if floor:
        lines.append(
            f"  of the guest's cache {size(floor)} stay in any case, as its agent's settings say"
        )
    return lines


def _remedies(listed: tuple[Remedy, ...], width: int) -> list[str]:
    """Return what to do, and lines to paste, which are not wrapped."""
    if not listed:
        return wrapped("  nothing that is known from here", width)
    lines = []
    for r in listed:
        most = "up to " if r.at_most and r.expected_bytes is not None else ""
        cost = f" (costs {r.cost})" if r.cost else ""
        amount = "not known how much" if r.expected_bytes is None else size(r.expected_bytes)
        lines += wrapped(f"  {most}{amount}: {r.what}{cost}", width)
        lines += [f"      {escape_for_terminal(line, 300)}" for line in r.commands]
        parts = (f"      {size(part_bytes)}: {whose}" for whose, part_bytes in r.parts)
        lines += _wrapped(parts, width)
    return lines


def document(seen: Observation) -> dict[str, object]:
    """Return the ledger for `--json`; all amounts are bytes."""
    ledger, host, can_come = seen.ledger, seen.host, returnable_of(seen)
    if ledger is None or host is None:
        return {}
    exact = {} if seen.exact is None else {"exact": page_table.document(seen.exact)}
    return {
        "name": seen.vm.name,
        "pid": seen.vm.pid,
        "vmm": seen.vm.backend,
        "ram_bytes": ledger.ram_bytes or None,
        "resident_bytes": resident_of(seen),
        **{name: getattr(ledger, name) for name in AMOUNTS},
        "returnable_bytes": can_come.total_bytes if can_come else None,
        "cold_bytes": can_come.cold_bytes if can_come else None,
        "warm_bytes": can_come.warm_bytes if can_come else None,
        "unknown": ledger.unknown.why if ledger.unknown else "",
        "rows": [
            {"row": row.key.name.lower(), "label": str(row.key), **_without(row, "key")}
            for row in ledger.rows
        ],
        "huge_bytes": host.ram_huge_bytes,
        "pss_bytes": host.ram_pss_bytes,
        "locked_bytes": host.ram_locked_bytes,
        "guest": {
            "source": str(seen.guest.source),
            "age_s": seen.guest.age_s,
            "free_by_order": list(seen.guest.free_by_order),
            "report_order": seen.guest.report_order,
            "cgroups": cgroup_table.document(seen.guest.cgroups),
            "would_take_bytes": seen.guest.would_take_bytes,
            "cache_floor_bytes": seen.guest.cache_floor_bytes,
            "learned_floor_bytes": seen.guest.learned_floor_bytes,
        },
        "remedies": [
            _without(r, "cost") | {"parts": [{"what": w, "bytes": b} for w, b in r.parts]}
            for r in remedies(seen)
        ],
        "notes": list(ledger.notes),
        "problems": list(seen.problems),
        **exact,
    }


def _without(record: Row | Remedy, name: str) -> dict[str, object]:
    """Return a record's fields by name, except one."""
    return {key: value for key, value in asdict(record).items() if key != name}
