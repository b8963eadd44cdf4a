"""A report of use from a history's file: amounts, owners, gaps, older files, and all its forms."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_samples import GIB, status, vm_status

from giveback import cli
from giveback.errors import InputError
from giveback.manager.history import schema
from giveback.manager.history.recorder import History
from giveback.manager.history.schema import HistoryError
from giveback.manager.history.usage.grains import Grain, HostGrain, merged
from giveback.manager.history.usage.report import read_usage
from giveback.manager.history.usage.totals import Amounts, gaps_in, percentile
from giveback.manager.settings.load import UsageSettings
from giveback.manager.settings.values import MemoryMark
from giveback.reporters.usage import data, tables
from giveback.reporters.usage import page as html_page

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.manager.history.usage.totals import UsageReport

START_S = 1_799_992_800
DAY_S = 86400
SHORT = MemoryMark(fraction=0.1)
PRICE = UsageSettings(0.01, "EUR")
EVIL = "<img src=x onerror=alert(1)>"


def days_of_history(path: Path, days: int = 2, gap: range = range(0)) -> None:
    """Write quarter-hour rows: vm `web` needs 2 GiB, at night 4 GiB, and holds 1 GiB more."""
    with contextlib.closing(schema.open_for_writing(str(path))) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO vm (id, key, name, backend, first_s, last_s, uid, label) "
            "VALUES (?, ?, ?, 'qemu', ?, ?, ?, ?)",
            [
                (1, "qemu:web:1", "web", START_S, START_S + days * DAY_S, 0, "team-a"),
                (2, f"qemu:{EVIL}:2", EVIL, START_S, START_S + days * DAY_S, 4_000_000, ""),
            ],
        )
        for number in range(days * 96):
            if number in gap:
                continue
            at_s = START_S + number * 900
            needed = (4 if number % 96 < 8 else 2) * GIB
            connection.execute(
                "INSERT INTO host_900 (at_s, looks, total_bytes, available_least_bytes) VALUES (?, 90, ?, ?)",
                (at_s, 64 * GIB, 20 * GIB),
            )
            for vm in (1, 2):
                connection.execute(
                    "INSERT INTO vm_900 (at_s, vm, looks, ram_bytes, resident_bytes, needed_bytes, "
                    "needed_most_bytes, returned_bytes) VALUES (?, ?, 90, ?, ?, ?, ?, ?)",
                    (at_s, vm, 8 * GIB, needed + GIB, needed, needed, 7 * GIB - needed),
                )
        connection.execute("COMMIT")


def read(path: Path, days: int = 2, prices: UsageSettings = PRICE) -> UsageReport:
    return read_usage(str(path), START_S, START_S + days * DAY_S, SHORT, prices)


def test_amounts_percentiles_and_room_for_more(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    days_of_history(path)
    report = read(path)
    web = next(vm for vm in report.vms if vm.name == "web")
    assert web.recorded_s == 2 * DAY_S
    assert web.amounts == Amounts(8 * 48, 44 * 3 + 4 * 5, 44 * 2 + 4 * 4, 44 * 5 + 4 * 3)
    needed = web.needed
    assert (needed.p50_bytes, needed.p99_bytes, needed.most_bytes) == (2 * GIB, 4 * GIB, 4 * GIB)
    assert web.advice.ram_bytes == 4 * GIB + 512 * (1 << 20)
    assert report.host.spare_bytes == 20 * GIB - SHORT.of(64 * GIB)
    assert web.more == report.host.spare_bytes // (4 * GIB)
    assert {(one.label, one.uid, one.vms) for one in report.owners} == {
        ("team-a", None, 1),
        ("", 4_000_000, 1),
    }


def test_gaps_are_said_and_count_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    days_of_history(path, gap=range(40, 60))
    report = read(path)
    (gap,) = report.host.gaps
    assert (gap.from_s, gap.to_s) == (START_S + 40 * 900, START_S + 60 * 900)
    assert report.host.gaps_s == 20 * 900
    assert "nothing is known of 5.0 h" in tables.text(report, {}, 100)
    assert report.vms[0].recorded_s == 2 * DAY_S - 20 * 900


def test_what_the_daemon_records_is_counted_before_it_is_rolled_up(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    history = History(str(path), 64 << 20)
    for number in range(200):
        at_s = float(START_S + number * 10)
        history.status(status(vm_status(uid=7, label="x", needed_bytes=GIB), wall_s=at_s))
        settle(history)
    history.close()
    (web,) = read_usage(str(path), START_S, START_S + 3600, SHORT, PRICE).vms
    assert (web.uid, web.label, web.recorded_s) == (7, "x", 2000)
    assert web.needed.most_bytes == GIB
    assert web.amounts.needed_gib_hours == pytest.approx(2000 / 3600)


def settle(history: History) -> None:
    deadline_s = time.monotonic() + 30
    while history._statuses:
        assert time.monotonic() < deadline_s, history.problems
        time.sleep(0.002)


def test_a_file_of_an_older_daemon_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    days_of_history(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for tier in schema.TIERS:
            connection.execute(f"ALTER TABLE {tier.vm} DROP COLUMN needed_most_bytes")
        connection.execute("ALTER TABLE vm DROP COLUMN uid")
        connection.execute("ALTER TABLE vm DROP COLUMN label")
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    report = read(path)
    assert {vm.needed.most_bytes for vm in report.vms} == {4 * GIB}
    assert {(vm.uid, vm.label) for vm in report.vms} == {(None, "")}
    history = History(str(path), 64 << 20)
    history.status(status(vm_status(uid=3), wall_s=float(START_S + 3 * DAY_S)))
    settle(history)
    history.close()
    assert read(path).vms == report.vms
    with contextlib.closing(schema.open_for_reading(str(path))) as connection:
        assert connection.execute("SELECT uid FROM vm WHERE name = 'web' AND last_s > ?",
                                  (START_S + 2 * DAY_S,)).fetchone() == (3,)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.none() | st.integers(0, 1 << 50)), min_size=1, max_size=5
    )
)
def test_runs_in_one_grain_add_up_to_no_more_than_side_by_side(
    runs: list[tuple[int, int | None]],
) -> None:
    one = merged([Grain(0, covered, value, 8, value, value, 0, 0) for covered, value in runs])
    assert one.covered_s <= 900
    known = [value for _, value in runs if value is not None]
    assert (one.needed_most_bytes is None) == (not known)
    if known:
        assert max(known) <= (one.needed_most_bytes or 0) <= sum(known)


@given(st.lists(st.tuples(st.integers(), st.integers(1, 900)), min_size=1), st.floats(0.01, 1))
def test_a_percentile_has_its_part_of_the_weight_at_or_below(
    values: list[tuple[int, int]], part: float
) -> None:
    values.sort()
    found = percentile(values, part)
    total = sum(weight for _, weight in values)
    assert sum(w for v, w in values if v <= found) >= part * total
    assert sum(w for v, w in values if v < found) < part * total


@given(st.sets(st.integers(0, 50)))
def test_gaps_and_grains_fill_the_time(numbers: set[int]) -> None:
    grains = [HostGrain(number * 900, 900, 1, 1) for number in sorted(numbers)]
    gaps = gaps_in(grains, 0, 51 * 900)
    assert sum(gap.to_s - gap.from_s for gap in gaps) + 900 * len(numbers) == 51 * 900


def test_every_form_escapes_a_name_and_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.db"
    days_of_history(path)
    settings = tmp_path / "giveback.toml"
    settings.write_text('[usage]\nprice_per_gib_hour = 0.01\ncurrency = "EUR"\n')
    report = read(path)
    page = html_page.page(report, {})
    assert EVIL not in page
    assert "&lt;img src=x onerror" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "1.52 EUR" in page
    rows = list(csv.DictReader(io.StringIO(data.as_csv(report, {0: "root"}))))
    document = data.document(report, {0: "root"})
    json.dumps(document)
    for row, vm in zip(rows, report.vms, strict=True):
        assert int(row["advice_bytes"]) == vm.advice.ram_bytes
        assert float(row["held_gib_hours"]) == pytest.approx(vm.amounts.held_gib_hours)
    assert (
        cli.main(
            ["usage", "--file", str(path), "--settings", str(settings), "--since", "90d", "--json"]
        )
        == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown["currency"] == "EUR"
    for width in (40, 80, 200):
        lines = tables.text(report, {}, width).splitlines()
        assert max(map(len, lines)) <= width


def test_a_file_that_is_not_there_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="there is no history yet"):
        read(tmp_path / "none.db")
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(HistoryError, match=r"broken\.db"):
        read(broken)
    with pytest.raises(InputError, match="the end must be after the start"):
        read_usage(str(broken), 10, 10, SHORT, PRICE)


def test_an_empty_history_says_so(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    schema.open_for_writing(str(path)).close()
    report = read(path)
    assert report.vms == ()
    assert "no VM was recorded in that time" in tables.text(report, {}, 80)
    html_page.page(report, {})
