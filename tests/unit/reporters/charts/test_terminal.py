"""Block characters: the rows have the requested size, whatever the values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback.reporters.charts.terminal import (
    ASCII_BLOCKS,
    BLOCKS,
    HOLE,
    Raster,
    area,
    bar,
    binned,
    dotted_line,
)

VALUES = st.floats(-1e12, 1e12)


@given(
    st.lists(st.none() | VALUES, max_size=60),
    VALUES,
    st.integers(0, 20),
    st.sampled_from([BLOCKS, ASCII_BLOCKS]),
)
def test_an_area_has_its_size_and_only_block_characters(
    values: list[float | None], most: float, height: int, blocks: str
) -> None:
    rows = area(values, most, height, blocks)
    assert [len(row) for row in rows] == [len(values)] * height
    assert set("".join(rows)) <= {*blocks, HOLE}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.integers(1, 9))
def test_an_area_is_as_high_as_its_value(values: list[float], height: int) -> None:
    rows = area(values, 100.0, height)
    for column, value in enumerate(values):
        eighths = sum(BLOCKS.index(row[column]) for row in rows)
        assert abs(eighths - value / 100 * 8 * height) <= 1
        assert (eighths > 0) == (value > 0)


def test_an_area_of_known_values() -> None:
    assert area([0, 1, 50, 75, 100, None], 100, 2) == ["   ▄█ ", " ▁███·"]


def test_a_bar_is_never_longer_than_its_place() -> None:
    assert bar(3, 4, 8) == "██████"
    assert bar(9, 4, 8) == "████████"
    assert bar(-1, 4, 8) == bar(1, 0, 8) == ""


@given(
    st.dictionaries(st.integers(0, 99), VALUES, max_size=60),
    st.floats(1, 1e12),
    st.integers(1, 20),
)
def test_a_line_stays_within_its_rows(halves: dict[int, float], most: float, height: int) -> None:
    cells = dotted_line(halves, most, height)
    assert all(0 <= row < height and 0 <= column < 50 for row, column in cells)
    assert all(0x2800 < ord(dots) < 0x2900 for dots in cells.values())
    assert {half // 2 for half in halves} <= {column for _, column in cells} or not halves


def test_a_steep_rise_is_one_upright_stroke() -> None:
    cells = dotted_line({0: 0, 1: 100}, 100, 3)
    assert sorted(cells) == [(0, 0), (1, 0), (2, 0)]


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.none() | st.floats(0, 1e9)), max_size=50),
    st.integers(1, 80),
)
def test_columns_have_the_greatest_of_their_values(
    points: list[tuple[float, float | None]], columns: int
) -> None:
    found = binned(sorted(points, key=lambda point: point[0]), 0, 1000, columns)
    assert len(found) == columns
    known = [value for _, value in points if value is not None]
    assert max((v for v in found if v is not None), default=None) == max(known, default=None)


def test_only_a_long_time_without_values_is_a_gap() -> None:
    points = [(t, 5.0) for t in (*range(10), *range(50, 60))]
    found = binned(points, 0, 60, 60)
    assert found[5] == found[55] == 5.0
    assert found[30] is None
    assert binned([(0, 5.0), (15, 5.0), (30, 5.0), (45, 5.0)], 0, 60, 60).count(None) == 0


def test_a_raster_leaves_out_what_is_outside_and_blanks_at_the_end() -> None:
    raster = Raster(4, 2)
    raster.put(0, 2, "abc", "bold")
    raster.put(-1, 0, "x")
    raster.put(5, 0, "x")
    raster.lay(0, 1, ["z Z", " y "])
    assert raster.rows() == [
        [(" ", ""), ("z", ""), ("a", "bold"), ("Z", "")],
        [(" ", ""), (" ", ""), ("y", "")],
    ]
    assert raster.get(1, 2) == "y"
