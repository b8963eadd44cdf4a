"""The exact ledger as a record: guest RAM by use, counted page by page.

`giveback.accounting.page_ledger` makes it. This module does not import numpy, whose import takes 90 ms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExactRow:
    """Bytes of guest RAM of one use, by where the host keeps them: resident, in swap, or absent."""

    label: str
    resident_bytes: int
    swapped_bytes: int
    absent_bytes: int

    @property
    def ram_bytes(self) -> int:
        """All of this use."""
        return self.resident_bytes + self.swapped_bytes + self.absent_bytes


@dataclass(frozen=True, slots=True)
class Exact:
    """All of guest RAM by use; its free part also by the order of the free block."""

    rows: tuple[ExactRow, ...]
    free_by_order: tuple[ExactRow, ...]
    free_resident_since: tuple[tuple[float, int], ...] = ()
    """Pairs (seconds, bytes): free and resident in every sample for at least that long.

    Empty after one sample."""
    notes: tuple[str, ...] = ()

    @property
    def resident_bytes(self) -> int:
        """All resident guest RAM."""
        return sum(row.resident_bytes for row in self.rows)

    @property
    def ram_bytes(self) -> int:
        """All guest RAM."""
        return sum(row.ram_bytes for row in self.rows)

    @property
    def residue_bytes(self) -> int:
        """Memory that is free in the guest and resident on the host, measured page by page."""
        return sum(row.resident_bytes for row in self.free_by_order)
