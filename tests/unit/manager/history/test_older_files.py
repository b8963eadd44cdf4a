"""Histories that older commits wrote: read as they are, and then written on with nothing lost."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from manager_samples import MIB, status, vm_status
from older_versions import HISTORIES, HISTORY_START_S, history_of

from giveback.manager.history import frames, reader, schema
from giveback.manager.history.recorder import History
from giveback.manager.history.schema import HistoryError

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.manager.history.records import HistorySpan

DEADLINE_S = 60.0


def version_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def span_of(path: Path, vm: str | None) -> HistorySpan:
    return reader.read(str(path), HISTORY_START_S, HISTORY_START_S + 115, vm)


def write_one_sample(path: Path) -> tuple[str, ...]:
    """Record one status two minutes after the old ones; return the problems that were met."""
    history = History(str(path), 64 * MIB)
    vm = vm_status("vm0", 1, resident_bytes=99 * MIB, cpu_percent=5.0)
    history.status(status(vm, wall_s=float(HISTORY_START_S + 120)))
    deadline_s = time.monotonic() + DEADLINE_S
    while history._statuses and not history.problems:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    problems = history.problems
    history.close()
    return problems


@pytest.mark.parametrize("commit", HISTORIES)
def test_an_older_history_is_read_as_it_is(commit: str, tmp_path: Path) -> None:
    path = history_of(commit, tmp_path)
    assert version_of(path) == HISTORIES[commit] < schema.VERSION
    before = path.read_bytes()
    of_vm = span_of(path, "vm1").samples
    assert [row.resident_bytes for row in of_vm] == [look * MIB for look in range(12)]
    of_host = span_of(path, None)
    assert len(of_host.host) == 12
    assert [action.id for action in of_host.actions] == [1]
    assert frames.newest(str(path)) == HISTORY_START_S + 110
    assert {vm.name for vm in frames.frame(str(path), HISTORY_START_S + 50).vms} == {"vm0", "vm1"}
    assert path.read_bytes() == before


@pytest.mark.parametrize("commit", HISTORIES)
def test_an_older_history_is_written_on_and_keeps_its_rows(commit: str, tmp_path: Path) -> None:
    path = history_of(commit, tmp_path)
    before = span_of(path, "vm0").samples, span_of(path, None).actions
    assert write_one_sample(path) == ()
    assert version_of(path) == schema.VERSION
    assert (span_of(path, "vm0").samples, span_of(path, None).actions) == before
    new = reader.read(str(path), HISTORY_START_S + 120, HISTORY_START_S + 125, "vm0").samples
    assert [(row.resident_bytes, row.cpu_percent) for row in new] == [(99 * MIB, 5.0)]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_newer_history_is_refused_in_words_and_not_changed(tmp_path: Path) -> None:
    path = history_of("db529db", tmp_path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"a newer giveback wrote this history \(version 4"):
        span_of(path, "vm0")
    (problem,) = write_one_sample(path)
    assert "history.path" in problem
    assert str(path) in problem
    assert path.read_bytes() == before
    assert not [found for found in tmp_path.iterdir() if "damaged" in found.name]
