"""The exact ledger of a VM, as two tables and as a document."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from giveback.accounting.exact import Exact, ExactRow


def text(exact: Exact) -> str:
    """Return the table of uses and the table of free blocks."""
    head = f"{'page by page':<52} {'RAM':>9} {'resident':>9} {'swapped':>9} {'absent':>9}"
    lines = [head, *(_line(row) for row in exact.rows)]
    lines += [f"{'of what is free, in blocks of':<52}", *(_line(r) for r in exact.free_by_order)]
    if exact.free_resident_since:
        lines.append("of what is free and resident, seen so at every look for at least")
        lines += [f"  {span(round(s)):<62} {size(b):>7}" for s, b in exact.free_resident_since]
    return "\n".join([*lines, *(f"note: {note}" for note in exact.notes)])


def _line(row: ExactRow) -> str:
    parts = (row.ram_bytes, row.resident_bytes, row.swapped_bytes, row.absent_bytes)
    return f"  {row.label:<50} " + " ".join(f"{size(part):>9}" for part in parts)


def document(exact: Exact) -> dict[str, object]:
    """Return the exact ledger for `--json`; all amounts are bytes."""
    since = [{"at_least_s": s, "resident_bytes": b} for s, b in exact.free_resident_since]
    sums = {name: getattr(exact, name) for name in ("ram_bytes", "resident_bytes", "residue_bytes")}
    return {**sums, **asdict(exact), "free_resident_since": since}
