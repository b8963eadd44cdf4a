"""A guest's services and containers, as a table of 80 columns and as a document."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.accounting.cgroups import GuestCgroup

_NAME = 34
_COLUMNS = ("anon", "cache", "cold", "shared", "kernel")


def text(rows: Sequence[GuestCgroup]) -> str:
    """Return the table; what is cold is part of the cache."""
    heading = f"{'by service and container:':<{_NAME}}" + " ".join(f"{c:>8}" for c in _COLUMNS)
    return "\n".join([heading, *(_line(row) for row in rows)])


def _line(row: GuestCgroup) -> str:
    name = row.label
    name = name if len(name) <= _NAME - 3 else name[: _NAME - 4] + "…"
    amounts = (getattr(row, f"{column}_bytes") for column in _COLUMNS)
    return f"  {name:<{_NAME - 2}}" + " ".join(f"{_short(amount):>8}" for amount in amounts)


def _short(amount: int) -> str:
    return size(amount) if amount >= 1 << 20 else "-"


def document(rows: Sequence[GuestCgroup]) -> list[dict[str, object]]:
    """Return the rows for `--json`; all amounts are bytes."""
    found = [asdict(row) for row in rows]
    return [{("cgroup" if name == "path" else name): row[name] for name in row} for row in found]
