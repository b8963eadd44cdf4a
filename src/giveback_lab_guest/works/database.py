"""Database: SQLite with a table larger than its hot part, which is queried repeatedly."""

from __future__ import annotations

import os
import random
import sqlite3

from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TABLE_PERCENT = 36
ROW_BYTES = 15_000
PAGE_BYTES = 16 << 10
# SQLite's own cache is kept small, so that the kernel's page cache is measured.
OWN_CACHE_KIB = 1024
ROWS_PER_COMMIT = 500
# The hot part: every eighth run of neighbouring rows.
STRETCH_ROWS = 64
HOT_EVERY = 8
HOT_ROUNDS = 3
UPDATES_PER_ROUND = 200


class Database(Job):
    """A table is loaded, scanned once, and its hot part queried and updated."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        super().__init__(folder, ram_bytes, seed, cpus)
        self.rows = max(STRETCH_ROWS * HOT_EVERY, self.percent(TABLE_PERCENT) // PAGE_BYTES)
        self.path = f"{folder}/table.db"

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None)
        database.execute(f"PRAGMA page_size={PAGE_BYTES}")
        database.execute(f"PRAGMA cache_size=-{OWN_CACHE_KIB}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        return database

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the phases: load, scan, serve."""
        return [("load", self._load), ("scan", self._scan), ("serve", self._serve)]

    def hot_keys(self) -> list[int]:
        """Return the rows of the hot part, in the order of their queries."""
        starts = list(range(0, self.rows - STRETCH_ROWS, STRETCH_ROWS * HOT_EVERY))
        random.Random(self.seed).shuffle(starts)
        return [start + row for start in starts for row in range(STRETCH_ROWS)]

    def hot_bytes(self) -> int:
        """Return the bytes of the hot rows' pages: one page each; the inner pages are few."""
        return len(self.hot_keys()) * PAGE_BYTES

    def _load(self) -> None:
        choose = random.Random(self.seed)
        block = choose.randbytes(2 * ROW_BYTES)
        database = self._open()
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, owner INTEGER, body BLOB)")
        for start in range(0, self.rows, ROWS_PER_COMMIT):
            part = range(start, min(self.rows, start + ROWS_PER_COMMIT))
            with_bodies = ((k, choose.randrange(1000), _body(block, k)) for k in part)
            database.execute("BEGIN")
            database.executemany("INSERT INTO item VALUES (?, ?, ?)", with_bodies)
            database.execute("COMMIT")
        database.close()

    def _scan(self) -> None:
        database = self._open()
        database.execute("SELECT count(*), sum(owner), sum(length(body)) FROM item").fetchone()
        database.close()

    def _serve(self) -> None:
        choose = random.Random(self.seed + 1)
        database = self._open()
        keys = self.hot_keys()
        for _ in range(HOT_ROUNDS):
            query(database, keys)
            database.execute("BEGIN")
            for key in choose.sample(keys, min(len(keys), UPDATES_PER_ROUND)):
                database.execute("UPDATE item SET owner = owner + 1 WHERE id = ?", (key,))
            database.execute("COMMIT")
        query(database, keys)
        database.close()
        # Dirty pages would be written, and so become reclaimable, at a time of the kernel's
        # choosing.
        os.sync()

    def prepare_reread(self) -> Callable[[], int]:
        """Return the hot rows' queries, on an open connection that has read its schema, like a server's."""
        database = self._open()
        keys = self.hot_keys()
        database.execute("SELECT owner FROM item WHERE id = ?", (0,)).fetchone()
        return lambda: query(database, keys)


def _body(block: bytes, key: int) -> bytes:
    start = key * 977 % ROW_BYTES
    return block[start : start + ROW_BYTES]


def query(database: sqlite3.Connection, keys: list[int]) -> int:
    """Query these rows, one by one; return the bytes of their bodies."""
    total = 0
    for key in keys:
        row = database.execute("SELECT owner, body FROM item WHERE id = ?", (key,)).fetchone()
        total += len(row[1])
    return total
