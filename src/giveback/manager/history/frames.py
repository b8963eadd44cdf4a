"""The history by moments: all VMs at one time, where `reader` has one VM over a span. Read-only."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from giveback.manager.history import reader, schema
from giveback.manager.history.records import (
    ACTION_COLUMNS,
    HOST_COLUMNS,
    VM_COLUMNS,
    HistoryFrame,
    HistoryHost,
    HistorySample,
    HistoryVm,
)
from giveback.manager.history.schema import TIERS, HistoryError, Tier
from giveback.manager.model import RecordedAction

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")
ACTIONS_S = 3600
"""The actions of a frame are those of the hour before it: older ones say nothing of that moment."""


def newest(path: str) -> int | None:
    """Return the wall seconds of the newest row; None if there is none. Raises HistoryError."""
    return _read(path, lambda connection: max(
        (at_s for tier in TIERS if (at_s := _newest_of(connection, tier)) is not None), default=None
    ))  # fmt: skip


def moments(path: str, from_s: int, to_s: int) -> tuple[int, ...]:
    """Return the times of the rows from `from_s` to `to_s`, at most `reader.POINTS`. Raises HistoryError."""
    if to_s <= from_s:
        return ()
    return tuple(row.at_s for row in reader.read(path, from_s, to_s).host)


def frame(path: str, at_s: int) -> HistoryFrame:
    """Return all VMs at one of the moments, by its finest rows, at most `reader.VMS` of them.

    Raises HistoryError.
    """
    return _read(path, lambda connection: _frame(connection, at_s))


def _read(path: str, work: Callable[[sqlite3.Connection], Found]) -> Found:
    with contextlib.closing(schema.open_for_reading(path)) as connection:
        try:
            connection.execute("BEGIN")
            return work(connection)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise HistoryError(f"{path}: {schema.words(error)}") from error


def _newest_of(connection: sqlite3.Connection, tier: Tier) -> int | None:
    found: int | None = connection.execute(f"SELECT max(at_s) FROM {tier.host}").fetchone()[0]  # noqa: S608
    return found


def _frame(connection: sqlite3.Connection, at_s: int) -> HistoryFrame:
    for tier in TIERS:
        row = connection.execute(
            f"SELECT at_s, {', '.join(HOST_COLUMNS)} FROM {tier.host} WHERE at_s = ?",  # noqa: S608
            (at_s,),
        ).fetchone()
        if row is not None:
            return HistoryFrame(
                at_s, tier.step_s, HistoryHost(*row), *_vms(connection, tier, at_s),
                _actions(connection, at_s, tier.step_s),
            )  # fmt: skip
    return HistoryFrame(at_s, TIERS[0].step_s, None, (), (), ())


def _vms(
    connection: sqlite3.Connection, tier: Tier, at_s: int
) -> tuple[tuple[HistorySample, ...], tuple[HistoryVm, ...]]:
    there = schema.columns_of(connection, tier.vm)
    # A file that an older daemon wrote lacks some.
    columns = ", ".join(f"v.{name}" if name in there else "NULL" for name in VM_COLUMNS)
    known = schema.columns_of(connection, "vm")
    whose = ", ".join(f"vm.{name}" if name in known else "NULL" for name in ("uid", "label"))
    rows = connection.execute(
        f"SELECT vm.key, vm.name, vm.backend, vm.first_s, vm.last_s, {whose}, v.at_s, {columns} "  # noqa: S608
        f"FROM {tier.vm} v JOIN vm ON vm.id = v.vm WHERE v.at_s = ? ORDER BY vm.key LIMIT ?",
        (at_s, reader.VMS),
    ).fetchall()
    samples = tuple(HistorySample(row[0], *row[7:]) for row in rows)
    return samples, tuple(
        HistoryVm(key, name, backend, first_s, last_s, uid, label or "")
        for key, name, backend, first_s, last_s, uid, label, *_ in rows
    )


def _actions(connection: sqlite3.Connection, at_s: int, step_s: int) -> tuple[RecordedAction, ...]:
    rows = connection.execute(
        f"SELECT {', '.join(ACTION_COLUMNS)} FROM action "  # noqa: S608
        "WHERE wall_s >= ? AND wall_s < ? ORDER BY wall_s DESC LIMIT ?",
        (at_s - ACTIONS_S, at_s + step_s, reader.VMS),
    )
    return tuple(RecordedAction(*row) for row in rows)[::-1]
