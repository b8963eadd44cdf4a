"""Stored cells: what was written is read, anything else is refused with a reason, nothing crashes."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback_lab.bench.model import Cell, CellMark, CellResult, CellSample, Counters, VmCourse
from giveback_lab.bench.run.store import ResultRefused, Store, from_json, read_file, to_json

AMOUNTS = st.integers(0, 1 << 50)
MAYBE = st.none() | AMOUNTS
TIMES = st.floats(-100, 1e6, allow_nan=False)
SAMPLES = st.builds(CellSample, TIMES, AMOUNTS, TIMES, TIMES, MAYBE, MAYBE)
STALLS = st.dictionaries(st.sampled_from(["cpu", "memory", "io"]), AMOUNTS)
COUNTERS = st.builds(
    Counters, refault_file_pages=MAYBE, read_bytes=MAYBE, psi_some_us=STALLS, psi_full_us=STALLS,
    agent_cpu_s=st.none() | TIMES, oom_kills=MAYBE,
)  # fmt: skip
MARKS = st.builds(CellMark, st.sampled_from(["work", "idle", "reread"]), TIMES, TIMES)
COURSES = st.builds(
    VmCourse, name=st.text(max_size=8), ram_bytes=AMOUNTS,
    samples=st.lists(SAMPLES, max_size=5).map(tuple), marks=st.lists(MARKS, max_size=3).map(tuple),
    work_s=TIMES, reread_s=st.none() | TIMES, reread_disk_bytes=MAYBE, needed_bytes=MAYBE,
    before=COUNTERS, after_work=COUNTERS, after=COUNTERS,
)  # fmt: skip
CELL = Cell("6.12", 1 << 30, "files", "none", 1)
RESULTS = st.builds(
    CellResult, cell=st.just(CELL), vms=st.lists(COURSES, max_size=3).map(tuple),
    versions=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    started_at=st.text(max_size=20), took_s=TIMES, host_busy_share=st.floats(0, 1),
    problems=st.lists(st.text(max_size=9), max_size=2).map(tuple), sitting=st.text(max_size=9),
)  # fmt: skip
COURSE = VmCourse(
    "vm", 1 << 30, (CellSample(0.0, 5, 0.1, 0.1, 3, 2),), (CellMark("work", 0.0, 9.0),), 9.0, None, None, 7,
    Counters(), Counters(), Counters(),
)  # fmt: skip
RESULT = CellResult(CELL, (COURSE,), {"qemu": "10"}, "2026-11-23T16:00:00+00:00", 99.5, 0.01)


@given(RESULTS)
def test_what_is_written_is_read(result: CellResult) -> None:
    assert from_json(to_json(result)) == result


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        from_json(text)


@given(st.sampled_from(sorted(json.loads(to_json(RESULT)))), st.none() | st.text() | st.integers())
def test_a_result_with_another_thing_in_it_never_crashes(field: str, value: object) -> None:
    plain = {**json.loads(to_json(RESULT)), field: value}
    try:
        from_json(json.dumps(plain))
    except ValueError:
        return


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"mem_bytes":1073741824', '"mem_bytes":"1G"', "cell.mem_bytes: should be a valid integer"),
        ('"name":"work"', '"name":"play"', "vms[0].marks[0].name: should be 'work'"),
        ('"begin_s":0.0', '"begin_s":true', "vms[0].marks[0].begin_s: should be a valid number"),
        ("[0.0,5,", "[0.0,-5,", "vms[0].samples[0].resident_bytes: should be greater"),
        ("[0.0,5,", "[0.0,5,5,", "a sample of 7 columns"),
        ("[[0.0,5,0.1,0.1,3,2]]", "[[0.0,5,0.1,0.1,3]]", "a sample of 5 columns"),
        ('"took_s":99.5', '"took_s":NaN', "took_s: should be a finite number"),
        ('"qemu":"10"', '"qemu":10', "versions.qemu: should be a valid string"),
        ('"problems":[]', '"problems":[],"more":1', "more: unexpected keyword argument"),
        ('"started_at":"2026-11-23T16:00:00+00:00",', "", "started_at: field required"),
    ],
)
def test_what_is_wrong_in_a_stored_cell_is_named(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    text = to_json(RESULT)
    assert old in text
    path = tmp_path / f"{CELL.key}.json.gz"
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))
    refused = read_file(path)
    assert isinstance(refused, ResultRefused)
    assert told in refused.reason
    assert "\n" not in refused.reason


def test_a_stored_cell_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    assert store.read(CELL) is None
    store.write(RESULT)
    assert store.read(CELL) == RESULT
    assert store.read_all() == ([RESULT], [])
    assert [path.name for path in store.folder.iterdir()] == [f"{CELL.key}.json.gz"]


def test_a_failure_is_kept_and_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    failure = replace(RESULT, vms=(), problems=("the guest panicked",))
    store.write(failure)
    assert store.read(CELL) is None
    assert store.read_all() == ([failure], [])
    store.write(RESULT)
    assert store.read_all() == ([RESULT], [])


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    store = Store(tmp_path)
    store.make()
    path = store.write(RESULT)
    path.write_bytes(path.read_bytes()[:cut])
    assert isinstance(store.read(CELL), ResultRefused)
    found, refused = store.read_all()
    assert found == []
    assert [file.path for file in refused] == [path]


def test_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / f"{CELL.key}.json.gz"
    path.write_bytes(gzip.compress(to_json(replace(RESULT, schema=0)).encode()))
    refused = read_file(path)
    assert isinstance(refused, ResultRefused)
    assert "schema 0" in refused.reason


def test_a_file_of_another_cells_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json.gz"
    path.write_bytes(gzip.compress(to_json(RESULT).encode()))
    refused = read_file(path)
    assert isinstance(refused, ResultRefused)
    assert CELL.key in refused.reason


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{CELL.key}.json.gz"
    path.write_bytes(gzip.compress(bytes(65 << 20)))
    assert isinstance(read_file(path), ResultRefused)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out"):
        Store(tmp_path / "file").make()


def test_a_cell_of_none_stays_as_long_as_others_were_measured_beside_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    ours = replace(RESULT, cell=replace(CELL, strategy="giveback"))
    for sitting in ("a", "b", "b", "c"):
        store.write(replace(RESULT, sitting=sitting))
    store.write(replace(ours, sitting="a"))
    found = store.read_all()[0]
    assert [(r.cell.strategy, r.sitting) for r in found] == [
        *[("giveback", "a")],
        *[("none", sitting) for sitting in ("a", "b", "c")],
    ]
    stored = store.read(CELL)
    assert isinstance(stored, CellResult)
    assert stored.sitting == "c"
    assert [path.name for path in store.prune()] == [f"{CELL.key}.2.json.gz"]
    store.write(replace(ours, sitting="c"))
    assert [path.name for path in store.prune()] == [f"{CELL.key}.1.json.gz"]
    assert store.prune() == []
    assert {(r.cell.strategy, r.sitting) for r in store.read_all()[0]} == {
        ("giveback", "c"),
        ("none", "c"),
    }


def test_only_none_has_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    ours = replace(RESULT, cell=replace(CELL, strategy="giveback"))
    path = store.write(replace(ours, sitting="a"))
    store.write(replace(ours, sitting="b"))
    assert [result.sitting for result in store.read_all()[0]] == ["b"]
    path.rename(store.folder / f"{ours.cell.key}.1.json.gz")
    assert len(store.read_all()[1]) == 1
