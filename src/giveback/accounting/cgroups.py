"""The guest's memory by service and container, parsed from the lines that its agent sends. Pure.

A guest may be hostile to its host. The number of rows is limited, amounts are bounded, their sum is at
most the guest's total, names are cut and escaped for printing. A malformed line is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from giveback.vmm.base import BYTES_LIMIT
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS_LIMIT = 32
NAME_LIMIT_CHARS = 64
PATH_LIMIT_CHARS = 160
PARTS_LIMIT = 4
PART_LEAST_BYTES = 8 << 20
"""Smaller parts are not worth a line of output."""
_DIGITS_LIMIT = 18
_LINE_LIMIT_CHARS = 4096


class CgroupKind(StrEnum):
    """The kind of unit that a row describes; the values are those of the agent's protocol."""

    SERVICE = "service"
    CONTAINER = "container"
    SLICE = "slice"
    """Memory of a slice, or of the root cgroup, that is in none of its units."""
    CGROUP = "cgroup"
    ENDED = "ended"
    """Memory that ended units left behind."""
    OTHERS = "others"


@dataclass(frozen=True, slots=True)
class GuestCgroup:
    """Memory of one unit of the guest in bytes; no byte is in two rows.

    `cold_bytes` is part of `cache_bytes`. `path` is the unit's cgroup, "" for a sum of several.
    """

    kind: CgroupKind
    name: str
    path: str
    anon_bytes: int
    cache_bytes: int
    cold_bytes: int
    shared_bytes: int
    kernel_bytes: int

    @property
    def held_bytes(self) -> int:
        """All memory of the unit: anonymous, cache, shared and kernel."""
        return self.anon_bytes + self.cache_bytes + self.shared_bytes + self.kernel_bytes

    @property
    def label(self) -> str:
        """The row's name as a reader sees it, safe to print."""
        if self.kind is CgroupKind.ENDED:
            return f"left by ended {self.name}"
        is_split = self.kind is CgroupKind.SLICE and self.path != "/"
        return f"{self.name} itself" if is_split else self.name


def cold_parts(rows: Sequence[GuestCgroup]) -> tuple[tuple[str, int], ...]:
    """Return the few units with the most cold cache, as pairs of label and bytes."""
    without = (CgroupKind.ENDED, CgroupKind.OTHERS)
    return _largest(
        [(f"{row.label}: cold", row.cold_bytes) for row in rows if row.kind not in without]
    )


def ended_parts(rows: Sequence[GuestCgroup]) -> tuple[tuple[str, int], ...]:
    """Return the few ended units that left the most cache behind, as pairs of label and bytes."""
    ended = [row for row in rows if row.kind is CgroupKind.ENDED]
    return _largest([(f"{row.name} ended and left it behind", row.cache_bytes) for row in ended])


def ended_bytes(rows: Sequence[GuestCgroup]) -> int:
    """Return the bytes of cache that ended services and containers left behind."""
    return sum(row.cache_bytes for row in rows if row.kind is CgroupKind.ENDED)


def programs(rows: Sequence[GuestCgroup], least_bytes: int) -> tuple[tuple[str, int], ...]:
    """Return services and containers with at least `least_bytes` that come back only when they end.

    Pairs of label and bytes: anonymous, shared and kernel memory.
    """
    units = (CgroupKind.SERVICE, CgroupKind.CONTAINER)
    found = [
        (row.label, row.anon_bytes + row.shared_bytes + row.kernel_bytes)
        for row in rows
        if row.kind in units
    ]
    return tuple(one for one in _largest(found) if one[1] >= least_bytes)


def _largest(found: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    ranked = sorted(found, key=lambda one: -one[1])[:PARTS_LIMIT]
    return tuple(one for one in ranked if one[1] >= PART_LEAST_BYTES)


def parse(said: object, total_bytes: int) -> tuple[GuestCgroup, ...]:
    """Parse an agent's lines into rows. A line is kind, five amounts in bytes, name and path, with tabs.

    A malformed line is left out, and so is each row that would raise the sum above `total_bytes`.
    """
    rows = []
    left_bytes = total_bytes
    for line in said[:ROWS_LIMIT] if isinstance(said, list) else ():
        row = _row(line) if isinstance(line, str) and len(line) <= _LINE_LIMIT_CHARS else None
        if row is not None and row.held_bytes <= left_bytes:
            left_bytes -= row.held_bytes
            rows.append(row)
    return tuple(rows)


def _row(line: str) -> GuestCgroup | None:
    words = line.split("\t")
    if len(words) != 8 or words[0] not in set(CgroupKind):
        return None
    amounts = [_amount(word) for word in words[1:6]]
    if None in amounts:
        return None
    anon, cache, cold, shared, kernel = (amount or 0 for amount in amounts)
    name = escape_for_terminal(words[6], NAME_LIMIT_CHARS)
    path = escape_for_terminal(words[7], PATH_LIMIT_CHARS)
    row = GuestCgroup(CgroupKind(words[0]), name, path, anon, cache, cold, shared, kernel)
    return replace(row, cold_bytes=min(cold, cache))


def _amount(word: str) -> int | None:
    if not word.isascii() or not word.isdigit() or len(word) > _DIGITS_LIMIT:
        return None
    amount = int(word)
    return amount if amount < BYTES_LIMIT else None
