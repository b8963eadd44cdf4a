"""Read the history, read-only: the finest records of a span of time, and its actions."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.manager.history import schema
from giveback.manager.history.records import (
    ACTION_COLUMNS,
    HOST_COLUMNS,
    VM_COLUMNS,
    HistoryHost,
    HistorySample,
    HistorySpan,
    HistoryVm,
)
from giveback.manager.history.schema import TIERS, HistoryError
from giveback.manager.model import RecordedAction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from giveback.manager.history.schema import Tier

    Row = TypeVar("Row")

POINTS = 1500
"""The most points of one series: 3 h of 10 s each, 24 h of minutes, 15 d of 15 min; longer spans are
thinned."""
ACTIONS = 1000
VMS = 5000


def read(path: str, from_s: int, to_s: int, vm: str | None = None) -> HistorySpan:
    """Return the history of the host, or of one VM by name or key, from `from_s` to `to_s`.

    The times are Unix seconds. Raises HistoryError if the file cannot be read, InputError for an unknown VM.
    """
    if to_s <= from_s:
        raise InputError(f"history from {from_s} to {to_s}: the end must be after the start")
    with contextlib.closing(schema.open_for_reading(path)) as connection:
        try:
            connection.execute("BEGIN")
            return _span(connection, from_s, to_s, vm)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise HistoryError(f"{path}: {schema.words(error)}") from error


def _span(connection: sqlite3.Connection, from_s: int, to_s: int, vm: str | None) -> HistorySpan:
    found = [] if vm is None else _vms_called(connection, vm, from_s, to_s)
    parts = _spans(connection, from_s, to_s)
    host = [row for part in parts for row in _host_rows(connection, *part)]
    samples = [row for one in found for part in parts for row in _vm_rows(connection, one, *part)]
    return HistorySpan(
        from_s=from_s,
        to_s=to_s,
        step_s=max(tier.step_s for tier, _, _ in parts),
        vm=vm,
        host=_thinned(host),
        samples=tuple(samples) if len(found) > 1 else _thinned(samples),
        actions=_actions(connection, from_s, to_s, vm, {key for _, key in found}),
        vms=_vms_seen(connection, from_s, to_s),
    )


def _vms_called(
    connection: sqlite3.Connection, vm: str, from_s: int, to_s: int
) -> list[tuple[int, str]]:
    """Return number and key of each VM with this key or name. Raises InputError if there is none."""
    rows: list[tuple[int, str]] = connection.execute(
        "SELECT id, key FROM vm WHERE (key = ?1 OR name = ?1) AND last_s >= ?2 "
        "AND first_s < ?3 ORDER BY first_s LIMIT 50",
        (vm, from_s, to_s),
    ).fetchall()
    if not rows:
        known = connection.execute(
            "SELECT name FROM vm GROUP BY name ORDER BY max(last_s) DESC, name LIMIT 10"
        )
        names = ", ".join(row[0] for row in known) or "none"
        raise InputError(f"history of {vm!r}: none in that time; VMs known: {names}")
    return rows


def _spans(connection: sqlite3.Connection, from_s: int, to_s: int) -> list[tuple[Tier, int, int]]:
    """Return the tier for each part of the span, oldest part first; parts do not overlap.

    The main tier is the finest that has at most POINTS rows for the span. A coarser tier serves the time
    before its oldest row; a finer one the time after its last row, which is not rolled up yet.
    """
    wanted = next((t for t in TIERS if (to_s - from_s) // t.step_s <= POINTS), TIERS[-1])
    at = TIERS.index(wanted)
    spans: list[tuple[Tier, int, int]] = []
    end_s = to_s
    for tier in TIERS[at:]:
        oldest, _ = _extent(connection, tier)
        # A coarse row that overlaps finer rows is left out: it would begin before them.
        until_s = end_s - tier.step_s + 1 if spans else end_s
        if oldest is not None and oldest < until_s:
            spans.insert(0, (tier, max(oldest, from_s), until_s))
            end_s = max(oldest, from_s)
    for tier in reversed(TIERS[:at]):
        _, newest = _extent(connection, tier)
        last_s = spans[-1][0].step_s + (_extent(connection, spans[-1][0])[1] or 0) if spans else 0
        if newest is not None and newest >= last_s and last_s < to_s:
            if spans:
                spans[-1] = (spans[-1][0], spans[-1][1], last_s)
            spans.append((tier, max(last_s, from_s), to_s))
    return [span for span in spans if span[1] < span[2]] or [(wanted, from_s, to_s)]


def _extent(connection: sqlite3.Connection, tier: Tier) -> tuple[int | None, int | None]:
    row = connection.execute(
        f"SELECT (SELECT min(at_s) FROM {tier.host}), (SELECT max(at_s) FROM {tier.host})"  # noqa: S608
    ).fetchone()
    return row[0], row[1]


def _host_rows(
    connection: sqlite3.Connection, tier: Tier, from_s: int, to_s: int
) -> list[HistoryHost]:
    rows = connection.execute(
        f"SELECT at_s, {', '.join(HOST_COLUMNS)} FROM {tier.host} "  # noqa: S608
        "WHERE at_s >= ? AND at_s < ? ORDER BY at_s",
        (from_s, to_s),
    )
    return [HistoryHost(*row) for row in rows]


def _vm_rows(
    connection: sqlite3.Connection, vm: tuple[int, str], tier: Tier, from_s: int, to_s: int
) -> list[HistorySample]:
    number, key = vm
    there = schema.columns_of(connection, tier.vm)
    # A file that an older daemon wrote lacks some columns.
    columns = ", ".join(f"v.{name}" if name in there else "NULL" for name in VM_COLUMNS)
    # CROSS JOIN fixes the order of the join: each record's time, then this VM's one row of that time.
    rows = connection.execute(
        f"SELECT v.at_s, {columns} FROM {tier.host} h CROSS JOIN {tier.vm} v "  # noqa: S608
        "ON v.at_s = h.at_s AND v.vm = ? WHERE h.at_s >= ? AND h.at_s < ? ORDER BY h.at_s",
        (number, from_s, to_s),
    )
    return [HistorySample(key, *row) for row in rows]


def _actions(
    connection: sqlite3.Connection, from_s: int, to_s: int, vm: str | None, keys: set[str]
) -> tuple[RecordedAction, ...]:
    rows = connection.execute(
        f"SELECT {', '.join(ACTION_COLUMNS)} "  # noqa: S608
        "FROM action WHERE wall_s >= ? AND wall_s < ? ORDER BY wall_s DESC",
        (from_s, to_s),
    )
    actions = (RecordedAction(*row) for row in rows)
    wanted = (one for one in actions if vm is None or one.vm == vm or one.vm in keys)
    return tuple(itertools.islice(wanted, ACTIONS))[::-1]


def _vms_seen(connection: sqlite3.Connection, from_s: int, to_s: int) -> tuple[HistoryVm, ...]:
    there = schema.columns_of(connection, "vm")
    whose = ", ".join(name if name in there else f"NULL AS {name}" for name in ("uid", "label"))
    rows = connection.execute(
        f"SELECT key, name, backend, first_s, last_s, {whose} FROM vm "  # noqa: S608
        "WHERE last_s >= ? AND first_s < ? ORDER BY last_s DESC, key LIMIT ?",
        (from_s, to_s, VMS),
    )
    return tuple(
        HistoryVm(key, name, backend, first_s, last_s, uid, label or "")
        for key, name, backend, first_s, last_s, uid, label in rows
    )


def _thinned(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return at most about POINTS rows: every n-th, and always the last."""
    if len(rows) <= POINTS:
        return tuple(rows)
    every = -(-len(rows) // POINTS)
    return (*rows[:-1:every], *rows[-1:])
