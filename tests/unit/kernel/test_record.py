"""The agent's frozen records, and what importing them costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel.record import Record, as_dict, replace


class Point(Record):
    x: int
    y: int = 7


class Named(Point):
    name: str = "nameless"


class Loose(Record):
    any_value: object
    many: tuple[Point, ...] = ()
    by_name: dict[str, Point] | None = None


def test_fields_keep_their_order_and_defaults() -> None:
    assert Point._fields == ("x", "y")
    assert (Point(1).x, Point(1).y) == (1, 7)
    assert Point(1, 2) == Point(y=2, x=1)


def test_a_subclass_adds_fields_after_its_base() -> None:
    assert Named._fields == ("x", "y", "name")
    assert Named(1, 2, "three").name == "three"
    assert Named(1) != Point(1)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2}), ((), {"y": 1})],
)
def test_wrong_fields_are_refused(args: tuple[int, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*args, **kwargs)


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="frozen"):
        del point.x
    with pytest.raises(AttributeError, match="frozen"):
        point.other = 1
    assert point == Point(1)


@settings(deadline=None)
@given(st.integers(), st.integers())
def test_equal_records_hash_alike(x: int, y: int) -> None:
    assert Point(x, y) == Point(x, y)
    assert hash(Point(x, y)) == hash(Point(x, y))
    assert (Point(x, y) == Point(y, x)) == (x == y)
    assert Point(x, y) != (x, y)


@settings(deadline=None)
@given(st.integers(), st.integers(), st.integers())
def test_replace_changes_only_what_is_named(x: int, y: int, z: int) -> None:
    point = Point(x, y)
    assert replace(point, y=z) == Point(x, z)
    assert point == Point(x, y)
    assert replace(point) == point


def test_replace_refuses_an_unknown_field() -> None:
    with pytest.raises(TypeError, match="z"):
        replace(Point(1), z=3)


def test_repr_reads_as_the_constructor() -> None:
    assert repr(Point(1)) == "Point(x=1, y=7)"
    assert eval(repr(Named(1, 2, "n"))) == Named(1, 2, "n")  # noqa: S307


def test_as_dict_goes_all_the_way_down() -> None:
    loose = Loose(Point(1), (Point(2), Named(3)), {"four": Point(4)})
    assert as_dict(loose) == {
        "any_value": {"x": 1, "y": 7},
        "many": [{"x": 2, "y": 7}, {"x": 3, "y": 7, "name": "nameless"}],
        "by_name": {"four": {"x": 4, "y": 7}},
    }
