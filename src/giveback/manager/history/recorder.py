"""Record the manager's status in an SQLite file of bounded size, without making the manager wait.

One thread writes. Records wait in memory, which is bounded as well: a stalled or full disk loses records,
and has no other effect. A damaged file is renamed, and a new one begun.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from giveback.manager.history import rollup, schema
from giveback.manager.history.records import ACTION_COLUMNS, HOST_COLUMNS, VM_COLUMNS
from giveback.manager.history.schema import TIERS, HistoryError
from giveback_kernel.units import span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from giveback.manager.model import DaemonStatus, ManagerAction, VmStatus

LEAST_BYTES = 4 << 20
WAITING_VMS = 20_000
"""The most VM records that wait for the disk: with 1,000 VMs, 200 s of records."""
WAITING_ACTIONS = 10_000
TEXT_LIMIT_CHARS = 300
RETRY_S, RETRY_MOST_S = 2.0, 60.0
TIDY_S = 60
CLOCK_JUMP_S = 120
CLOCK_REST_S = 600.0
NOTE_S = 3600.0
_STEP_S = TIERS[0].step_s
_RAW = TIERS[0]


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return (
        f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) "  # noqa: S608
        f"VALUES ({', '.join('?' * len(columns))})"
    )


_HOST_INSERT = _insert(_RAW.host, ("at_s", *HOST_COLUMNS))
_VM_INSERT = _insert(_RAW.vm, ("at_s", "vm", *VM_COLUMNS))
_ACTION_INSERT = _insert("action", ("run", *ACTION_COLUMNS))


class History:
    """A `model.HistoryRecorder` in the file `path`. Call `close` at the end.

    The file and its log take at most `limit_bytes`, or LEAST_BYTES if that is more.
    """

    def __init__(self, path: str, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = max(limit_bytes, LEAST_BYTES)
        self._statuses: deque[DaemonStatus] = deque()
        self._actions: OrderedDict[int, ManagerAction] = OrderedDict()
        self._last_step: int | None = None
        self._problem = ""
        self._noted: tuple[tuple[float, str], ...] = ()
        self._lost = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = _Writer(path, self.limit_bytes)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def status(self, status: DaemonStatus) -> None:
        """Record a status; only the first in each 10 s is recorded."""
        step = int(status.wall_s) // _STEP_S
        if step == self._last_step:
            return
        self._last_step = step
        with self._changed:
            self._statuses.append(status)
            waiting = sum(len(status.vms) for status in self._statuses)
            while len(self._statuses) > 1 and (waiting > WAITING_VMS or len(self._statuses) > 360):
                waiting -= len(self._statuses.popleft().vms)
                self._lost += 1
            self._changed.notify()

    def action(self, action: ManagerAction) -> None:
        """Record an action; a known `id` adds the result to the earlier one."""
        with self._changed:
            self._actions[action.id] = action
            while len(self._actions) > WAITING_ACTIONS:
                self._actions.popitem(last=False)
            self._changed.notify()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why recording fails now, and what was lost in the last hour."""
        since_s = time.monotonic() - NOTE_S
        noted = tuple(text for at_s, text in self._noted if at_s >= since_s)
        return (*((self._problem,) if self._problem else ()), *noted)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write the waiting records, if the disk takes them in time, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        retry_s = RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._statuses or self._actions or self._closing)
                statuses, actions = list(self._statuses), list(self._actions.values())
                closing = self._closing
            failed = self._write(statuses, actions) if statuses or actions else ""
            if failed:
                self._problem = self._failure(failed)
            else:
                self._forget(statuses, actions)
                self._problem, retry_s = "", RETRY_S
            if closing:
                self._writer.close()
                return
            if failed:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, retry_s)
                retry_s = min(RETRY_MOST_S, retry_s * 2)

    def _failure(self, failed: str) -> str:
        lost = f"; {self._lost} samples lost" if self._lost else ""
        return f"history {self.path}: {failed}; giveback tries again{lost}"

    def _write(self, statuses: list[DaemonStatus], actions: list[ManagerAction]) -> str:
        """Write the records. Return why that failed; "" if it did not."""
        try:
            self._writer.write(statuses, actions)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            return self._after(error)
        except OSError as error:
            self._writer.close()
            return schema.words(error)
        except (OverflowError, ValueError, TypeError) as error:
            # A record that can never be written must not be tried forever.
            self._writer.close()
            self._writer.note(f"history {self.path}: a sample was left out: {str(error)[:200]}")
        except HistoryError as error:
            self._writer.close()
            return str(error).removeprefix(f"{self.path}: ")
        self._noted = tuple(self._writer.notes)
        return ""

    def _after(self, error: sqlite3.Error | UnicodeDecodeError) -> str:
        self._writer.close()
        if not schema.is_damaged(error):
            return schema.words(error)
        try:
            aside = schema.set_aside(self.path)
        except OSError as failed:
            return f"damaged, and cannot be set aside: {schema.words(failed)}"
        self._writer.note(
            f"history {self.path}: was damaged, and renamed to {aside}; a new one is begun"
        )
        return "damaged; a new one is begun"

    def _forget(self, statuses: list[DaemonStatus], actions: list[ManagerAction]) -> None:
        """Drop written records from the queue; an action that changed since then stays."""
        with self._changed:
            for status in statuses:
                if self._statuses and self._statuses[0] is status:
                    self._statuses.popleft()
            for action in actions:
                if self._actions.get(action.id) is action:
                    del self._actions[action.id]


class _Writer:
    """The state of the writing thread: the connection, and what it remembers of the file."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._reserve_bytes = min(8 << 20, limit_bytes // 3)
        self._budget_bytes = limit_bytes - self._reserve_bytes
        self._connection: sqlite3.Connection | None = None
        self._ids: dict[str, int] = {}
        self._run = 0
        self._tidied_s: int | None = None
        self._clocks: tuple[float, float] | None = None
        self._resting_until_s = 0.0
        self.notes: deque[tuple[float, str]] = deque(maxlen=4)

    def note(self, text: str) -> None:
        """Show a problem for NOTE_S, although it is over."""
        self.notes.append((time.monotonic(), text))

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection, self._ids = None, {}

    def write(self, statuses: Iterable[DaemonStatus], actions: Iterable[ManagerAction]) -> None:
        """Write the records, and tidy the file if that is due.

        Raises sqlite3.Error, OSError, HistoryError.
        """
        connection = self._connection or self._open()
        self._keep_log_small(connection)
        latest: DaemonStatus | None = None
        # An explicit BEGIN, because with isolation_level=None `with connection` begins no transaction.
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            for latest in statuses:
                self._write_status(connection, latest)
            connection.executemany(_ACTION_INSERT, [self._action_row(a) for a in actions])
        if latest is not None:
            self._tidy(connection, int(latest.wall_s))

    def _open(self) -> sqlite3.Connection:
        self._connection = connection = schema.open_for_writing(self._path)
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {self._budget_bytes // page_bytes}").fetchall()
        connection.execute(f"PRAGMA journal_size_limit = {self._reserve_bytes // 2}").fetchall()
        connection.execute(
            f"PRAGMA wal_autocheckpoint = {max(64, self._reserve_bytes // page_bytes // 4)}"
        ).fetchall()
        if not self._run:
            self._run = (rollup.meta(connection, "run") or 0) + 1
            rollup.set_meta(connection, "run", self._run)
        return connection

    def _keep_log_small(self, connection: sqlite3.Connection) -> None:
        """Empty the write-ahead log if it is large. Raises HistoryError if a stalled reader prevents that."""
        log = self._path + "-wal"
        if schema.size_of(log) < self._reserve_bytes:
            return
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if schema.size_of(log) >= self._reserve_bytes:
            raise HistoryError(
                "a program that reads the file stands still, so its log cannot be emptied; end that "
                f"program (fuser {self._path})"
            )

    def _write_status(self, connection: sqlite3.Connection, status: DaemonStatus) -> None:
        at_s = int(status.wall_s) // _STEP_S * _STEP_S
        connection.execute(_HOST_INSERT, (at_s, *_host_row(status)))
        ids = self._vm_ids(connection, status.vms, at_s)
        connection.executemany(_VM_INSERT, [(at_s, ids[vm.key], *_vm_row(vm)) for vm in status.vms])

    def _vm_ids(
        self, connection: sqlite3.Connection, vms: tuple[VmStatus, ...], at_s: int
    ) -> dict[str, int]:
        """Return each VM's number in the file; remember the numbers of these VMs only."""
        known: dict[str, int] = {}
        for vm in vms:
            number = self._ids.get(vm.key)
            if number is None:
                row = connection.execute(
                    "INSERT INTO vm (key, name, backend, first_s, last_s, uid, label) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                    "last_s = excluded.last_s, uid = excluded.uid, label = excluded.label "
                    "RETURNING id",
                    (
                        _text(vm.key),
                        _text(vm.name),
                        _text(vm.backend),
                        at_s,
                        at_s,
                        _int(vm.uid),
                        _text(vm.label),
                    ),
                ).fetchone()
                number = int(row[0])
            known[vm.key] = number
        connection.executemany(
            "UPDATE vm SET last_s = ? WHERE id = ?", [(at_s, number) for number in known.values()]
        )
        self._ids = known
        return known

    def _action_row(self, action: ManagerAction) -> tuple[object, ...]:
        return (
            self._run, action.id, action.wall_s, _text(action.vm), str(action.kind),
            action.urgency, _int(action.expected_bytes), _text(action.reason),
            _int(action.measured_bytes), _text(action.verdict),
        )  # fmt: skip

    def _tidy(self, connection: sqlite3.Connection, now_s: int) -> None:
        """Once a minute, roll up records, and drop those that are too old or too many."""
        clock_is_sound = self._watch_clock(now_s)
        if rollup.used_bytes(connection) > self._budget_bytes * 9 // 10:
            rollup.shrink(connection, self._budget_bytes * 8 // 10, now_s)
        minute = now_s // TIDY_S
        if minute == self._tidied_s:
            return
        self._tidied_s = minute
        rollup.roll_up(connection, now_s)
        if clock_is_sound:
            rollup.drop_future(connection, now_s)
            rollup.drop_old(connection, now_s)
            rollup.give_back(connection)

    def _watch_clock(self, now_s: int) -> bool:
        """Return whether the wall clock is in step with the monotonic clock.

        After a jump it is not trusted for CLOCK_REST_S: a wrong time must not drop good records.
        """
        monotonic_s = time.monotonic()
        before, self._clocks = self._clocks, (float(now_s), monotonic_s)
        if before is not None:
            jumped_s = (now_s - before[0]) - (monotonic_s - before[1])
            if abs(jumped_s) > CLOCK_JUMP_S:
                self._resting_until_s = monotonic_s + CLOCK_REST_S
                way = "ahead" if jumped_s > 0 else "back"
                jump = f"the clock jumped {way} by {span(abs(jumped_s))}"
                self.note(f"{jump}: {self._path} keeps its old records for now")
        return monotonic_s >= self._resting_until_s


def _host_row(status: DaemonStatus) -> tuple[object, ...]:
    host, decision = status.host, status.decision
    return (
        1,
        host and _int(host.total_bytes),
        host and _int(host.available_bytes),
        host and _int(host.available_bytes),
        host and host.psi_memory_some_avg10,
        host and host.psi_memory_full_avg10,
        host and _int(host.swap_in_bytes),
        host and _int(host.swap_free_bytes),
        decision and decision.urgency,
        decision and _int(decision.deficit_bytes),
        len(status.vms),
        _int(sum(vm.resident_bytes or 0 for vm in status.vms)),
        _int(sum(vm.needed_bytes or 0 for vm in status.vms)),
        _int(sum(vm.residue_bytes or 0 for vm in status.vms)),
    )


def _vm_row(vm: VmStatus) -> tuple[object, ...]:
    return (
        1,
        _int(vm.ram_bytes),
        _int(vm.resident_bytes),
        _int(vm.resident_bytes),
        _int(vm.needed_bytes),
        _int(vm.residue_bytes),
        _int(vm.cache_bytes),
        _int(vm.balloon_lease_bytes),
        vm.urgency,
        str(vm.condition),
        _int(vm.in_use_bytes),
        None if vm.residue_bytes is None else _int(vm.rows.get("free_trapped", 0)),
        _int(vm.returnable_bytes),
        _int(vm.returned_bytes),
        _int(vm.own_bytes),
        _int(vm.charged_bytes),
        _int(vm.swap_bytes),
        None if vm.cpu_percent is None else round(vm.cpu_percent, 1),
        _int(vm.needed_bytes),
    )


def _int(value: int | None) -> int | None:
    """Return the value limited to SQLite's 64 bits; a guest may send more."""
    return None if value is None else max(-(1 << 63), min(value, (1 << 63) - 1))


def _text(text: str) -> str:
    """Return the text, shortened, with characters replaced that UTF-8 cannot encode."""
    return text[:TEXT_LIMIT_CHARS].encode("utf-8", "replace").decode()
