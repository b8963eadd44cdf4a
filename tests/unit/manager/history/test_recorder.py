"""The history: what is kept, for how long, in how much room, and what it survives."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_samples import GIB, MIB, action, status, vm_status

from giveback.errors import InputError
from giveback.manager.history import chart, rollup, schema
from giveback.manager.history import reader as history_reader
from giveback.manager.history.recorder import LEAST_BYTES, History
from giveback.manager.history.records import HistoryHost, HistorySample, HistorySpan
from giveback.manager.history.schema import TIERS, HistoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 1_799_992_800
"""A whole quarter of an hour."""
DEADLINE_S = 20.0


def settle(history: History, *, well: bool = True) -> None:
    """Until all that waits is written, or, of a history that cannot, until it says so."""
    deadline_s = time.monotonic() + DEADLINE_S
    while (history._statuses or history._actions) if well else not history.problems:
        assert time.monotonic() < deadline_s, history.problems
        time.sleep(0.002)


@contextlib.contextmanager
def recording(path: Path, limit_bytes: int = 64 * MIB) -> Iterator[History]:
    history = History(str(path), limit_bytes)
    try:
        yield history
    finally:
        history.close()


def fill(history: History, looks: int, vms: int = 2, step_s: int = 10) -> None:
    """Looks one after the other, resident memory rising by a MiB with each."""
    for look in range(looks):
        shown = [vm_status(f"vm{i}", i + 1, resident_bytes=look * MIB) for i in range(vms)]
        history.status(status(*shown, wall_s=float(START_S + look * step_s)))
        settle(history)


def everything_of(path: Path) -> int:
    """The file and all that belongs to it."""
    return sum(found.stat().st_size for found in path.parent.iterdir())


def test_each_look_is_kept_and_rolled_up(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 200)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT at_s, looks, resident_bytes, resident_most_bytes "
                                  "FROM vm_60 WHERE vm = 1 ORDER BY at_s").fetchall()  # fmt: skip
        assert rows[0] == (START_S, 6, round(2.5 * MIB), 5 * MIB)
        assert rows[1] == (START_S + 60, 6, round(8.5 * MIB), 11 * MIB)
        assert len(rows) == 33
        quarters = connection.execute("SELECT at_s, looks, resident_bytes FROM vm_900 WHERE vm = 1")
        assert quarters.fetchall() == [
            (START_S, 90, round(44.5 * MIB)), (START_S + 900, 90, round(134.5 * MIB)),
        ]  # fmt: skip
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_more_often_than_every_ten_seconds_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 50, step_s=1)
    assert len(history_rows(path)) == 5


def history_rows(path: Path, vm: str | None = "vm0", span_s: int = 3600) -> list[dict[str, Any]]:
    found = history_reader.read(str(path), START_S, START_S + span_s, vm)
    return [asdict(row) for row in (found.host if vm is None else found.samples)]


def test_an_action_is_one_row_also_after_it_was_verified(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    asked = action(7, wall_s=float(START_S), measured_bytes=None, vm="qemu/vm0/1")
    with recording(path) as history:
        fill(history, 1)
        history.action(asked)
        settle(history)
        history.action(replace(asked, measured_bytes=5, verdict="cache in use"))
    found = history_reader.read(str(path), START_S - 10, START_S + 10, "vm0")
    assert [(a.id, a.measured_bytes, a.verdict) for a in found.actions] == [(7, 5, "cache in use")]


def test_actions_of_two_runs_with_the_same_id_are_two(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for _ in range(2):
        with recording(path) as history:
            history.action(action(1, wall_s=float(START_S)))
    found = history_reader.read(str(path), START_S - 10, START_S + 10)
    assert len(found.actions) == 2


@pytest.mark.parametrize("vms", [30, 300])
def test_the_file_keeps_to_its_limit_with_all_that_belongs_to_it(tmp_path: Path, vms: int) -> None:
    path = tmp_path / "history.db"
    with recording(path, LEAST_BYTES) as history:
        for look in range(20_000 // vms):
            shown = [vm_status(f"vm{i}", i + 1) for i in range(vms)]
            history.status(status(*shown, wall_s=float(START_S + look * 60)))
            settle(history)
            assert everything_of(path) <= LEAST_BYTES
        assert history.problems == ()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        newest = connection.execute("SELECT max(at_s) FROM vm_10").fetchone()[0]
        assert newest == START_S + (20_000 // vms - 1) * 60


def test_vms_that_come_and_go_leave_no_names_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path, LEAST_BYTES) as history:
        for look in range(120):
            shown = [vm_status(f"{'n' * 200}{look}-{i}", i + 1) for i in range(100)]
            history.status(status(*shown, wall_s=float(START_S + look * 900)))
            settle(history)
            assert everything_of(path) <= LEAST_BYTES
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM vm").fetchone()[0] < 10_000


def test_it_is_readable_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 3)
        with contextlib.closing(schema.open_for_reading(str(path))) as reader:
            reader.execute("BEGIN")
            seen = reader.execute("SELECT count(*) FROM host_10").fetchone()[0]
            history.status(status(wall_s=float(START_S + 500)))
            settle(history)
            assert reader.execute("SELECT count(*) FROM host_10").fetchone()[0] == seen == 3
            reader.execute("COMMIT")
            assert reader.execute("SELECT count(*) FROM host_10").fetchone()[0] == 4
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM host_10")


def test_a_reader_that_stands_still_cannot_make_it_grow(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path, LEAST_BYTES) as history:
        fill(history, 1)
        with contextlib.closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM host_10").fetchone()
            look = 1
            while not history.problems:
                shown = [vm_status(f"vm{i}", i + 1) for i in range(300)]
                history.status(status(*shown, wall_s=float(START_S + look * 10)))
                look += 1
                deadline_s = time.monotonic() + DEADLINE_S
                while history._statuses and not history.problems:
                    assert time.monotonic() < deadline_s
                    time.sleep(0.002)
            assert "stands still" in history.problems[0]
            assert everything_of(path) <= LEAST_BYTES


@pytest.mark.parametrize(
    "garbage", [b"no database at all" * 1000, os.urandom(1 << 16)], ids=["text", "noise"]
)
def test_a_damaged_file_is_set_aside_under_a_clear_name(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(garbage)
    with recording(path) as history:
        history.status(status(wall_s=float(START_S)))
        settle(history)
        (aside,) = schema.damaged_files(str(path))
        assert Path(aside).read_bytes() == garbage
        assert any("was damaged" in problem for problem in history.problems)
    assert len(history_rows(path, None)) == 1


def test_damage_in_the_middle_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 100, vms=20)
    data = bytearray(path.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    path.write_bytes(data)
    with recording(path) as history:
        history.status(status(wall_s=float(START_S + 5000)))
        settle(history)
    assert schema.damaged_files(str(path))
    assert len(history_rows(path, None, 10_000)) == 1


def test_only_the_last_damaged_ones_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for number in range(5):
        path.write_bytes(b"%d" % number)
        schema.set_aside(str(path))
    kept = [Path(name).read_bytes() for name in schema.damaged_files(str(path))]
    assert kept == [b"3", b"4"]


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with recording(path) as history:
        history.status(status(wall_s=float(START_S)))
        settle(history, well=False)
        assert "another program" in history.problems[0]
    assert path.read_bytes() == before


def test_a_folder_that_comes_later_is_found_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("giveback.manager.history.recorder.RETRY_S", 0.01)
    path = tmp_path / "later" / "history.db"
    with recording(path) as history:
        history.status(status(wall_s=float(START_S)))
        settle(history, well=False)
        assert "No such file" in history.problems[0]
        path.parent.mkdir()
        settle(history)
    assert history.problems == ()
    assert len(history_rows(path, None)) == 1


def test_what_waits_for_a_disk_is_bounded(tmp_path: Path) -> None:
    with recording(tmp_path / "none" / "history.db") as history:
        vms = tuple(vm_status(f"vm{i}", i) for i in range(1000))
        for look in range(100):
            history.status(status(*vms, wall_s=float(START_S + look * 10)))
            history.action(action(look))
        assert len(history._statuses) <= 20
        assert history._statuses[-1].wall_s == START_S + 990
        assert len(history._actions) == 100


def test_a_clock_that_jumps_far_ahead_and_back_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        for at_s in (START_S, START_S + 10, START_S + 10**8, START_S + 10**8 + 60, START_S + 20):
            history.status(status(wall_s=float(at_s)))
            settle(history)
        assert any("clock jumped" in problem for problem in history.problems)
    assert [row["at_s"] for row in history_rows(path, None)] == [
        START_S,
        START_S + 10,
        START_S + 20,
    ]


def test_old_rows_go_when_their_tiers_time_is_over(tmp_path: Path) -> None:
    connection = schema.open_for_writing(str(tmp_path / "h.db"))
    with contextlib.closing(connection):
        now_s = START_S
        for tier in TIERS:
            for age_s in (0, tier.keep_s - 1, tier.keep_s + 1):
                connection.execute(
                    f"INSERT INTO {tier.host} (at_s) VALUES (?)",  # noqa: S608
                    (now_s - age_s,),
                )
        rollup.drop_old(connection, now_s)
        for tier in TIERS:
            oldest = connection.execute(
                f"SELECT min(at_s) FROM {tier.host}"  # noqa: S608
            ).fetchone()[0]
            assert oldest == now_s - tier.keep_s + 1
        rollup.drop_future(connection, now_s - 3600)
        assert connection.execute("SELECT count(*) FROM host_10").fetchone()[0] == 1


def test_a_span_is_stitched_of_the_tiers_there_are(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 400)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table in ("host_10", "vm_10"):
            connection.execute(
                f"DELETE FROM {table} WHERE at_s < ?",  # noqa: S608
                (START_S + 3000,),
            )
        for table in ("host_60", "vm_60"):
            connection.execute(
                f"DELETE FROM {table} WHERE at_s < ?",  # noqa: S608
                (START_S + 1800,),
            )
    for vm in (None, "vm0", "qemu/vm1/2"):
        times = [row["at_s"] for row in history_rows(path, vm, 4000)]
        assert times == sorted(set(times))
        assert times[:3] == [START_S, START_S + 900, START_S + 1800]
        assert times[-1] == START_S + 3990
        assert START_S + 3000 in times
        assert START_S + 2940 in times


def test_a_vm_that_is_not_known_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 1)
    with pytest.raises(InputError, match="vm0, vm1"):
        history_reader.read(str(path), START_S - 5, START_S + 5, "nope")
    with pytest.raises(InputError, match="after the start"):
        history_reader.read(str(path), START_S, START_S)
    with pytest.raises(HistoryError, match="no history yet"):
        history_reader.read(str(tmp_path / "none"), 1, 2)
    (tmp_path / "bad").write_bytes(b"x" * 4096)
    with pytest.raises(HistoryError, match="not a database"):
        history_reader.read(str(tmp_path / "bad"), 1, 2)


HOSTILE = st.text(max_size=400) | st.just("\udc80\x1b[2J'; DROP TABLE vm; --")


@settings(max_examples=25, deadline=None)
@given(name=HOSTILE, amount=st.integers(-(1 << 70), 1 << 70))
def test_no_name_and_no_number_stops_it(name: str, amount: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        with recording(path) as history:
            vm = vm_status(name, 1, key=f"qemu/{name}/1", ram_bytes=amount, resident_bytes=amount)
            history.status(status(vm, wall_s=float(START_S)))
            history.action(action(1, vm=name, reason=name, expected_bytes=amount))
            settle(history)
            assert history.problems == ()


def test_the_chart_shows_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 100)
    found = history_reader.read(str(path), START_S, START_S + 1000, "vm0")
    drawn = chart.chart(found, 60, 4)
    assert "resident: now 99 MiB, most 99 MiB" in drawn
    assert all(len(line) <= 60 for line in drawn.splitlines())
    assert chart.as_csv(found).splitlines()[0].startswith("key,at_s,looks,ram_bytes")
    empty = history_reader.read(str(path), START_S - 900, START_S - 800)
    assert chart.chart(empty) == "nothing was recorded in that time"
    assert chart.as_csv(empty) == ""


def test_a_name_is_no_formula_of_a_spreadsheet() -> None:
    row = HistorySample("=HYPERLINK(1)", 1)
    history = HistorySpan(0, 10, 10, "x", (), (row,), (), ())
    assert "'=HYPERLINK" in chart.as_csv(history)


@given(
    st.lists(st.none() | st.integers(0, 64 * GIB), min_size=1, max_size=300),
    st.integers(1, 200),
    st.integers(1, 12),
)
def test_any_values_can_be_drawn(values: list[int | None], width: int, height: int) -> None:
    host = tuple(
        HistoryHost(10 * i, available_bytes=value, resident_bytes=None, residue_bytes=0)
        for i, value in enumerate(values)
    )
    drawn = chart.chart(HistorySpan(0, 3000, 10, None, host, (), (), ()), width, height)
    assert drawn.count("residue") == 1


def test_a_pipe_in_its_place_is_told_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    os.mkfifo(path)
    history = History(str(path), 8 << 20)
    history.status(status(vm_status("web", 1)))
    deadline_s = time.monotonic() + 60
    while not any("not a regular file" in problem for problem in history.problems):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    history.close()
    with pytest.raises(HistoryError, match="not a regular file"):
        history_reader.read(str(path), 0, 1)


def test_every_amount_of_the_table_is_kept_and_rolled_up(tmp_path: Path) -> None:
    shown = {
        "in_use_bytes": 7, "returnable_bytes": 8, "returned_bytes": 9, "own_bytes": 10,
        "charged_bytes": 11, "swap_bytes": 12,
    }  # fmt: skip
    path = tmp_path / "history.db"
    with recording(path) as history:
        for look, cpu_percent in enumerate((10.04, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)):
            vm = vm_status("web", 1, rows={"free_trapped": 6}, cpu_percent=cpu_percent, **shown)
            history.status(status(vm, wall_s=float(START_S + 10 * look)))
            settle(history)
    first = history_reader.read(str(path), START_S, START_S + 10, "web").samples[0]
    kept = asdict(first)
    assert kept["cpu_percent"] == 10.0
    assert {name: kept[name] for name in shown} == shown
    assert kept["trapped_bytes"] == 6
    with contextlib.closing(schema.open_for_reading(str(path))) as connection:
        row = connection.execute("SELECT cpu_percent, swap_bytes FROM vm_60").fetchone()
    assert row == (35.0, 12)


def test_a_file_with_fewer_columns_is_read_and_then_written_with_all(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with recording(path) as history:
        fill(history, 2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        for tier in TIERS:
            for name in ("in_use_bytes", "cpu_percent"):
                old.execute(f"ALTER TABLE {tier.vm} DROP COLUMN {name}")
        old.execute("PRAGMA user_version = 1")
    before = history_reader.read(str(path), START_S, START_S + 100, "vm0").samples
    assert [(row.resident_bytes, row.cpu_percent) for row in before] == [(0, None), (MIB, None)]
    with recording(path) as history:
        vm = vm_status("vm0", 1, cpu_percent=5.0, resident_bytes=9 * MIB)
        history.status(status(vm, wall_s=float(START_S + 40)))
        settle(history)
    after = history_reader.read(str(path), START_S, START_S + 100, "vm0").samples
    assert after[:2] == before
    assert (after[2].resident_bytes, after[2].cpu_percent) == (9 * MIB, 5.0)
