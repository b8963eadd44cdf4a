"""The exact ledger as a record: guest RAM by use, counted page by page.

`giveback.accounting.page_ledger` makes it. This module has no numpy, whose import takes 90 ms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExactRow:
    """Bytes of one use, by where the host has them."""

    label: str
    resident_bytes: int
    swapped_bytes: int
    absent_bytes: int

    @property
    def ram_bytes(self) -> int:
        return self.resident_bytes + self.swapped_bytes + self.absent_bytes


@dataclass(frozen=True, slots=True)
class Exact:
    """The whole of RAM by use; the free part of it also by block order."""

    rows: tuple[ExactRow, ...]
    free_by_order: tuple[ExactRow, ...]
    free_resident_since: tuple[tuple[float, int], ...] = ()
    """(seconds, bytes): free and resident in every sample for that long; empty after one sample."""
    notes: tuple[str, ...] = ()

    @property
    def resident_bytes(self) -> int:
        return sum(row.resident_bytes for row in self.rows)

    @property
    def ram_bytes(self) -> int:
        return sum(row.ram_bytes for row in self.rows)

    @property
    def residue_bytes(self) -> int:
        """Free in the guest and resident here: measured, page by page."""
        return sum(row.resident_bytes for row in self.free_by_order)
