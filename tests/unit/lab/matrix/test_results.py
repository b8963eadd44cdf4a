"""Figures of a row: derived from guest and host, stored on disk, shown in a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback_lab.matrix.measure import back_percent, methods, reasons
from giveback_lab.matrix.results import EndFigures, RowFigures, RowResult, RowStore
from giveback_lab.matrix.rows import NOT_RUN, ROWS
from giveback_lab.matrix.table import BEGIN, END, spliced, table

MIB = 1 << 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["agent", "last_passes", "steps", "kind", "gain_bytes", "checks", "verdict", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def figures(**values: object) -> RowFigures:
    whole: dict[str, object] = {
        "release": "6.12.9", "resident_before_bytes": 700 * MIB, "resident_after_bytes": 200 * MIB,
        "residue_bytes": 3 * MIB, "cold_left_bytes": 9 * MIB,
        "ends": (EndFigures("container", 140 * MIB, 97.0, 99.5),),
        "hot_bytes": 40 * MIB, "hot_lost_bytes": MIB, "method": "cache", "reason": "", **values,
    }  # fmt: skip
    return RowFigures(**whole)  # type: ignore[arg-type]


@given(st.integers(-5, 1000), st.integers(-1000, 2000), st.integers(-1000, 2000))
def test_a_page_is_back_once_both_have_let_it_go(cold: int, dropped: int, returned: int) -> None:
    percent = back_percent(cold, dropped, returned)
    assert 0 <= percent <= 100
    if cold > 0:
        assert percent <= max(0.0, 100 * dropped / cold) + 0.1
        assert percent <= max(0.0, 100 * returned / cold) + 0.1
    else:
        assert percent == 100


@given(st.dictionaries(st.sampled_from(["agent", "checks"]), JSON))
def test_whatever_an_agent_says_becomes_one_short_line(said: dict[str, object]) -> None:
    for text in (methods(said), reasons(said)):
        assert 0 < len(text) <= 210
        assert text.isprintable()


def test_the_step_that_freed_most_comes_first() -> None:
    steps = [{"kind": "compact", "gain_bytes": 5}, {"kind": "cache", "gain_bytes": 3}]
    passes = [{"steps": steps}, {"steps": [{"kind": "cache", "gain_bytes": 4}]}]
    assert methods({"agent": {"last_passes": passes}}) == "cache, compact"
    assert methods({}) == "no pass"


def test_the_reason_is_what_doctor_finds() -> None:
    checks = [
        {"name": "memory.reclaim", "verdict": "warn", "evidence": "came with Linux 5.19"},
        {"name": "PSI", "verdict": "ok", "evidence": "is read"},
    ]
    assert reasons({"checks": checks}) == "memory.reclaim: came with Linux 5.19"
    assert reasons({}) == "doctor finds nothing missing"


def test_a_row_is_kept_until_its_version_changes(tmp_path: Path) -> None:
    store, row = RowStore(tmp_path / "rows"), ROWS[0]
    assert store.read(row) is None
    done = RowResult(row, "v1", 9.0, figures())
    store.write(done)
    assert store.read(row) == done
    assert store.is_done(row, "v1")
    assert not store.is_done(row, "v2")
    store.write(RowResult(row, "v1", 9.0, None, "the guest panicked"))
    assert not store.is_done(row, "v1")
    (tmp_path / "rows" / f"{row.key}.json").write_text("{")
    assert store.read(row) is None


def test_the_table_has_figures_failures_and_what_is_not_run() -> None:
    ends = (EndFigures("container", 9, 97.0, 99.6), EndFigures("service", 9, 50.0, 60.0))
    text = table(
        [
            RowResult(ROWS[0], "v", 1.0, figures()),
            RowResult(ROWS[1], "v", 1.0, figures(ends=ends, reason="a | b")),
            RowResult(ROWS[2], "v", 1.0, None, "no answer within 120 s"),
        ]
    )
    lines = text.splitlines()
    assert len({line.count(" | ") for line in lines[:5]}) == 1
    assert "700 → 200" in lines[2]
    assert "| 97 % | 100 % | 2.5 % |" in lines[2]
    assert "container 97 %; service 50 %" in lines[3]
    assert "a \\| b" in lines[3]
    assert "failed: no answer within 120 s" in lines[4]
    assert all(one.what in text for one in NOT_RUN)


def test_the_table_takes_its_place_between_the_markers() -> None:
    page = f"# Kernels\n\n{BEGIN}\nold\n{END}\n\nmore\n"
    once = spliced(page, "new\n")
    assert once == f"# Kernels\n\n{BEGIN}\nnew\n{END}\n\nmore\n"
    assert spliced(once, "new\n") == once
    with pytest.raises(InputError, match="matrix: begin"):
        spliced("# Kernels\n", "new\n")
