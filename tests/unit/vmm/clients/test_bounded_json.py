"""Untrusted JSON: only small values are parsed, and refusals do not quote the text."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.vmm.clients.bounded_json import (
    BYTES_LIMIT,
    DEPTH_LIMIT,
    ELEMENTS_LIMIT,
    cost_bytes,
    elements_of,
    parse,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def count(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + count(one) for one in value.values())
    if isinstance(value, list):
        return 1 + sum(count(one) for one in value)
    return 1


@given(VALUES, st.booleans())
def test_small_values_are_parsed_and_every_element_is_counted(value: object, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    assert elements_of(text) >= count(value)
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"^not JSON$"):
            parse(text)
    else:
        assert parse(text) == expected


@given(st.binary(max_size=200))
def test_garbage_is_a_value_or_one_kind_of_error(text: bytes) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert str(error) == "not JSON"  # noqa: PT017  # whether it is one depends on the bytes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'"' + b"x" * BYTES_LIMIT + b'"', "more than 1024 KiB"),
        (b"[" + b"[]," * ELEMENTS_LIMIT + b"[]]", "more than 65536 elements"),
        (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, "more than 65536 elements"),
        (b"[" * 30_000 + b"]" * 30_000, f"nested more than {DEPTH_LIMIT} deep"),
        (
            b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1),
            f"nested more than {DEPTH_LIMIT} deep",
        ),
        (b"[" * DEPTH_LIMIT + b"1]" + b"]" * DEPTH_LIMIT, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b'"\xff"', "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_values_beyond_a_limit_are_refused(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        parse(text)


def test_a_value_as_deep_as_the_limit_is_parsed() -> None:
    assert parse(b"[" * DEPTH_LIMIT + b"1" + b"]" * DEPTH_LIMIT)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 30_000 + b"[]]",
        b"[" + b'{"a":1},' * 12_000 + b"1]",
        b"[" + b'{"":{}},' * 12_000 + b"1]",
        b"[" + b'"ab",' * 50_000 + b"1]",
        b"[" + b"1e9," * 50_000 + b"1]",
        b"{" + b",".join(b'"%d":%d' % (n, n * 10**12) for n in range(20_000)) + b"}",
        '"{}\N{GRINNING FACE}"'.format("x" * 900_000).encode(),
    ],
)
def test_no_answer_takes_more_memory_than_it_is_charged_for(text: bytes) -> None:
    tracemalloc.start()
    try:
        parse(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= cost_bytes(text)
