"""The history's file: its tables, how it is opened, and how a damaged one is set aside.

Rows are ordered by time, then VM. So one sample of 1,000 VMs is one run of pages, and the oldest rows are
deleted as one run. A VM's rows are found by the samples' times, which are in the host's table.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from giveback.manager.history.records import HOST_COLUMNS, REAL_COLUMNS, VM_COLUMNS
from giveback_kernel.errors import GivebackError

VERSION = 3
"""Versions 1 and 2 had fewer columns of a VM: the next write adds them, with NULL in the old rows."""
_APPLICATION_ID = 0x67627868
_BUSY_S = 2.0
SET_ASIDE_KEPT = 2
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class Tier:
    """One resolution of the history: a row every `step_s`, kept for at most `keep_s`."""

    step_s: int
    keep_s: int

    @property
    def host(self) -> str:
        """The name of its table of the host."""
        return f"host_{self.step_s}"

    @property
    def vm(self) -> str:
        """The name of its table of VMs."""
        return f"vm_{self.step_s}"


TIERS = (Tier(10, 3 * 3600), Tier(60, 36 * 3600), Tier(900, 90 * 86400))
"""All resolutions, finest first; each is made from the one before."""

_TYPES = {**dict.fromkeys(REAL_COLUMNS, "REAL"), "condition": "TEXT"}


class HistoryError(GivebackError):
    """The history's file cannot be used; the message says why, and what to do."""


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {_TYPES.get(name, 'INTEGER')}" for name in names)


def _statements() -> list[str]:
    made = [
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE vm (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        backend TEXT NOT NULL, first_s INTEGER NOT NULL, last_s INTEGER NOT NULL,
        uid INTEGER, label TEXT) STRICT""",
        "CREATE INDEX vm_name ON vm (name)",
        "CREATE INDEX vm_last ON vm (last_s)",
        """CREATE TABLE action (run INTEGER NOT NULL, id INTEGER NOT NULL, wall_s REAL NOT NULL,
        vm TEXT NOT NULL, kind TEXT NOT NULL, urgency INTEGER NOT NULL,
        expected_bytes INTEGER NOT NULL, reason TEXT NOT NULL, measured_bytes INTEGER,
        verdict TEXT NOT NULL, PRIMARY KEY (run, id)) STRICT, WITHOUT ROWID""",
        "CREATE INDEX action_wall ON action (wall_s)",
    ]
    for tier in TIERS:
        made.append(
            f"CREATE TABLE {tier.host} (at_s INTEGER PRIMARY KEY, {_columns(HOST_COLUMNS)}) STRICT"
        )
        made.append(
            f"CREATE TABLE {tier.vm} (at_s INTEGER NOT NULL, vm INTEGER NOT NULL, "
            f"{_columns(VM_COLUMNS)}, PRIMARY KEY (at_s, vm)) STRICT, WITHOUT ROWID"
        )
    return [*made, f"PRAGMA application_id = {_APPLICATION_ID}", f"PRAGMA user_version = {VERSION}"]


def open_for_writing(path: str) -> sqlite3.Connection:
    """Open the history at `path` for writing; create it if it does not exist.

    Raises sqlite3.Error, OSError, HistoryError.
    """
    # Mode 0640: other users must not read which VMs exist, and what they do.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HistoryError(f"{path}: not a regular file; history.path names another")
    finally:
        os.close(fd)
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    _check_version(connection, path)
    # This takes effect only in a new file; an existing one has it already.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -4096")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for statement in _statements() if version == 0 else _additions(connection):
            connection.execute(statement)


def _additions(connection: sqlite3.Connection) -> list[str]:
    """Return the statements that convert a file of an older version to this one."""
    added = [
        f"ALTER TABLE {tier.vm} ADD COLUMN {_columns((name,))}"
        for tier in TIERS
        for name in VM_COLUMNS
        if name not in columns_of(connection, tier.vm)
    ]
    known = columns_of(connection, "vm")
    added += [
        f"ALTER TABLE vm ADD COLUMN {name} {kind}"
        for name, kind in (("uid", "INTEGER"), ("label", "TEXT"))
        if name not in known
    ]
    return [*added, f"PRAGMA user_version = {VERSION}"]


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """Return the names of a table's columns."""
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
    return frozenset(name for (name,) in rows)


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application == _APPLICATION_ID and version > VERSION:
        raise HistoryError(
            f"{path}: a newer giveback wrote this history (version {version}, this one knows up to "
            f"{VERSION}); it is left as it is: install that giveback again, or name another file in "
            "the settings (history.path)"
        )
    if application not in (0, _APPLICATION_ID) or version > VERSION:
        raise HistoryError(
            f"{path}: not a history of this giveback (version {version}); move it away, or name "
            "another file in the settings"
        )
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version == 0 and tables:
        raise HistoryError(f"{path}: another program's database; name another file")


def open_for_reading(path: str) -> sqlite3.Connection:
    """Open the history at `path` read-only, also while a daemon writes it. Raises HistoryError."""
    if not Path(path).exists():
        raise HistoryError(f"{path}: there is no history yet; `giveback daemon` writes it")
    if not Path(path).is_file():
        raise HistoryError(f"{path}: not a regular file; history.path names another")
    try:
        try:
            return _open_read_only(path, "mode=ro")
        except sqlite3.OperationalError as error:
            # No writer runs, and this user may not create the -shm file that WAL needs: the file is
            # constant.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or has_wal(path):
                raise
            return _open_read_only(path, "mode=ro&immutable=1")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise HistoryError(f"{path}: {words(error)}") from error


def _open_read_only(path: str, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(path)}?{how}", uri=True, timeout=_BUSY_S, isolation_level=None
    )
    try:
        _check_version(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def has_wal(path: str) -> bool:
    """Return whether the write-ahead log has content."""
    return size_of(path + "-wal") > 0


def size_of(path: str) -> int:
    """Return a file's length in bytes; 0 if it does not exist."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def is_damaged(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Return whether the file itself is broken, so that no retry helps.

    Python raises UnicodeDecodeError if SQLite's message about it contains bytes of the file.
    """
    return (
        isinstance(error, UnicodeDecodeError)
        or (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _DAMAGED
    )


_WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full; free space on it",
    sqlite3.SQLITE_READONLY: "cannot be written; check its owner and the file system",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check the folder and its owner",
    sqlite3.SQLITE_IOERR: "the disk fails, or is full",
    sqlite3.SQLITE_BUSY: "locked by another program",
    sqlite3.SQLITE_LOCKED: "locked by another program",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "not a database",
}


def words(error: sqlite3.Error | OSError | UnicodeDecodeError) -> str:
    """Return in words what went wrong, and what to do."""
    if isinstance(error, OSError):
        return os.strerror(error.errno or 0)
    if isinstance(error, UnicodeDecodeError):
        return _WORDS[sqlite3.SQLITE_CORRUPT]
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    return _WORDS.get(code, str(error)[:200])


def set_aside(path: str) -> str:
    """Rename a damaged file and its log to `PATH.damaged-TIME`, and return that name. Raises OSError.

    The last SET_ASIDE_KEPT such files are kept.
    """
    now_ns = time.time_ns()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ns // 10**9))
    aside = f"{path}.damaged-{stamp}.{now_ns % 10**9:09}Z"
    Path(path).rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(path + suffix).rename(aside + suffix)
    for old in damaged_files(path)[:-SET_ASIDE_KEPT]:
        for suffix in ("", "-wal", "-shm"):
            Path(old + suffix).unlink(missing_ok=True)
    return aside


def damaged_files(path: str) -> list[str]:
    """Return the paths of files that were set aside, oldest first."""
    folder, start = Path(path).parent, Path(path).name + ".damaged-"
    names = [str(found) for found in folder.iterdir() if found.name.startswith(start)]
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))
