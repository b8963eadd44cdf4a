"""The matrix's rows: names, parts of names, and invalid names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback_lab.matrix.rows import ROWS, MatrixRow, rows_of


def test_every_kernel_and_machine_has_a_row() -> None:
    assert rows_of("all") == ROWS
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert {row.kernel for row in ROWS} == {"5.10", "6.1", "6.12", "7.2", "7.3"}
    assert {row.machine for row in ROWS} == {"amd64", "arm64", "arm64-16k"}


@given(st.lists(st.sampled_from(ROWS), min_size=1, unique=True))
def test_names_give_their_rows_in_their_order(rows: list[MatrixRow]) -> None:
    found = rows_of(",".join(row.key for row in rows))
    # "7.3-arm64-small" is not a part of "7.3-arm64-16k-small".
    assert found == tuple(rows)


def test_a_part_of_a_name_gives_all_rows_that_have_it() -> None:
    assert {row.guest for row in rows_of("distribution")} == {"distribution"}
    assert {row.kernel for row in rows_of("6.1")} == {"6.1"}
    assert {row.machine for row in rows_of("arm64-16k")} == {"arm64-16k"}
    assert rows_of("6.6-amd64-small") == (MatrixRow("6.6", "amd64", "small"),)


@pytest.mark.parametrize(
    "words", ["", "9", "6.12-vax-small", "x y-amd64-small", "4.19-amd64-small"]
)
def test_what_is_no_row_is_refused(words: str) -> None:
    with pytest.raises(InputError):
        rows_of(words)
