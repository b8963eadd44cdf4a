"""Roll fine rows up into coarse ones, and drop the oldest so that the file stays within its limit.

Every function takes an open history and raises sqlite3.Error. None waits, none uses threads.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from giveback.manager.history.records import HOST_COLUMNS, REAL_COLUMNS, VM_COLUMNS
from giveback.manager.history.schema import TIERS

if TYPE_CHECKING:
    import sqlite3

    from giveback.manager.history.schema import Tier

DROP_ROWS = 20_000
"""Rows deleted in one transaction, whose pages are all in the write-ahead log."""
FUTURE_S = 60
ACTIONS_KEPT = 100_000
_VACUUM_PAGES = 2_000
_LEAST, _MOST, _LAST = "min", "max", "last"
# How a column of several rows becomes one value. Other columns are averaged, weighted by `looks`.
_HOW = {
    "available_least_bytes": _LEAST,
    "resident_most_bytes": _MOST,
    "needed_most_bytes": _MOST,
    "urgency": _MOST,
    "deficit_bytes": _MOST,
    "swap_in_bytes": _MOST,
    "vms": _MOST,
    "condition": _LAST,
}


def roll_up(connection: sqlite3.Connection, now_s: int) -> None:
    """Make the coarse rows of every step that has ended by `now_s`. Repeating it changes nothing."""
    for fine, coarse in itertools.pairwise(TIERS):
        end_s = now_s // coarse.step_s * coarse.step_s
        start_s = _done(connection, coarse, fine, end_s)
        if end_s <= start_s:
            continue
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            connection.execute(_rolling(fine.host, coarse.host, coarse, HOST_COLUMNS, ""),
                               (start_s, end_s))  # fmt: skip
            connection.execute(_rolling(fine.vm, coarse.vm, coarse, VM_COLUMNS, "vm"),
                               (start_s, end_s))  # fmt: skip
            set_meta(connection, _marker(coarse), end_s)


def _done(connection: sqlite3.Connection, coarse: Tier, fine: Tier, end_s: int) -> int:
    """Return the time up to which coarse rows exist.

    If the clock was set back, return an hour before `end_s` at the earliest, so that an hour is made again.
    """
    done = meta(connection, _marker(coarse))
    if done is None or done > end_s + coarse.step_s:
        (oldest,) = connection.execute(f"SELECT min(at_s) FROM {fine.host}").fetchone()  # noqa: S608
        start = end_s if oldest is None else oldest // coarse.step_s * coarse.step_s
        return start if done is None else max(start, end_s - 3600)
    return done


def _marker(tier: Tier) -> str:
    return f"rolled_{tier.step_s}"


def _rolling(source: str, target: str, coarse: Tier, columns: tuple[str, ...], group: str) -> str:
    step = coarse.step_s
    keys = ["at_s", group] if group else ["at_s"]
    values = [f"at_s / {step} * {step} AS span", *([group] if group else [])]
    values += [_aggregate(name) for name in columns]
    by = ", ".join(["span", group] if group else ["span"])
    return (
        f"INSERT OR REPLACE INTO {target} ({', '.join([*keys, *columns])}) "  # noqa: S608
        f"SELECT {', '.join(values)} FROM {source} "
        f"WHERE at_s >= ? AND at_s < ? GROUP BY {by}"
    )


def _aggregate(name: str) -> str:
    how = _HOW.get(name)
    if name == "looks":
        return "sum(looks)"
    if how in (_LEAST, _MOST):
        return f"{how}({name})"
    if how == _LAST:
        return f"substr(max(printf('%020d', at_s) || {name}), 21)"
    weight = f"sum(CASE WHEN {name} IS NULL THEN 0 ELSE looks END)"
    mean = f"sum({name} * 1.0 * looks) / nullif({weight}, 0)"
    return mean if name in REAL_COLUMNS else f"CAST(round({mean}) AS INTEGER)"


def drop_future(connection: sqlite3.Connection, now_s: int) -> None:
    """Delete rows of a clock that was ahead: the same times will come again."""
    for tier in TIERS:
        for table in (tier.host, tier.vm):
            connection.execute(
                f"DELETE FROM {table} WHERE at_s > ?",  # noqa: S608
                (now_s + FUTURE_S,),
            )


def drop_old(connection: sqlite3.Connection, now_s: int) -> None:
    """Delete rows that are older than their tier keeps; finer rows were rolled up before."""
    for tier in TIERS:
        _drop_before(connection, tier, now_s - tier.keep_s)
    connection.execute("DELETE FROM action WHERE wall_s < ?", (now_s - TIERS[-1].keep_s,))
    connection.execute(
        "DELETE FROM action WHERE wall_s <= "
        "(SELECT wall_s FROM action ORDER BY wall_s DESC LIMIT 1 OFFSET ?)",
        (ACTIONS_KEPT,),
    )
    forget_vms(connection)


def _drop_before(connection: sqlite3.Connection, tier: Tier, before_s: int) -> None:
    """Delete a tier's rows before a time, in slices, so that the write-ahead log stays small."""
    while True:
        row = connection.execute(
            f"SELECT at_s FROM {tier.vm} WHERE at_s < ? ORDER BY at_s LIMIT 1 OFFSET {DROP_ROWS}",  # noqa: S608
            (before_s,),
        ).fetchone()
        until_s = before_s if row is None else row[0] + 1
        _delete(connection, tier, min(until_s, before_s))
        if row is None:
            return


def _delete(connection: sqlite3.Connection, tier: Tier, before_s: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for table in (tier.vm, tier.host):
            connection.execute(f"DELETE FROM {table} WHERE at_s < ?", (before_s,))  # noqa: S608


def forget_vms(connection: sqlite3.Connection) -> None:
    """Delete the names of VMs without rows."""
    oldest = [
        connection.execute(f"SELECT min(at_s) FROM {tier.host}").fetchone()[0]  # noqa: S608
        for tier in TIERS
    ]
    known = [at_s for at_s in oldest if at_s is not None]
    if known:
        connection.execute("DELETE FROM vm WHERE last_s < ?", (min(known),))


def shrink(connection: sqlite3.Connection, budget_bytes: int, now_s: int) -> bool:
    """Drop the oldest rows until the file fits; return False if nothing is left to drop.

    The tier that is nearest to its own limit of time loses rows first. So a small file shortens all tiers
    alike, instead of losing the long-term one for the fine one.
    """
    while used_bytes(connection) > budget_bytes:
        tier = max(TIERS, key=lambda tier: _fullness(connection, tier, now_s))
        oldest = _oldest(connection, tier)
        if oldest is None or _fullness(connection, tier, now_s) <= 0:
            emptied = connection.execute(
                "DELETE FROM action WHERE (run, id) IN "
                "(SELECT run, id FROM action ORDER BY wall_s LIMIT 1000)"
            ).rowcount
            forget_vms(connection)
            if not emptied:
                return False
            continue
        _drop_before(connection, tier, oldest + max(tier.step_s, (now_s - oldest) // 20))
        forget_vms(connection)
    give_back(connection)
    return True


def _fullness(connection: sqlite3.Connection, tier: Tier, now_s: int) -> float:
    oldest = _oldest(connection, tier)
    return 0.0 if oldest is None else (now_s - oldest) / tier.keep_s


def _oldest(connection: sqlite3.Connection, tier: Tier) -> int | None:
    (oldest,) = connection.execute(f"SELECT min(at_s) FROM {tier.host}").fetchone()  # noqa: S608
    return None if oldest is None else int(oldest)


def give_back(connection: sqlite3.Connection) -> None:
    """Return free pages to the file system, some at a time."""
    connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the file without its free pages, in bytes."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * size)


def meta(connection: sqlite3.Connection, name: str) -> int | None:
    """Return a number from the table `meta`; None if it is not there."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def set_meta(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Store a number in the table `meta`."""
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))
