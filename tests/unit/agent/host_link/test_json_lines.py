"""The agent's own JSON: it writes valid JSON, and reads a text as `json` does or refuses it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from giveback_agent.host_link import json_lines

TEXT = st.text(max_size=60)
NUMBERS = st.one_of(
    st.integers(-(10**17), 10**17), st.floats(allow_nan=False, allow_infinity=False)
)
FLAT = st.dictionaries(
    TEXT, st.one_of(st.none(), st.booleans(), NUMBERS, TEXT), max_size=json_lines._FIELDS_LIMIT
)
MARKS = st.text(alphabet='{}[]:,"\\u0019dDeE.+-truefalsn \t\r', max_size=40)


def short(line: bytes) -> bool:
    return len(line) <= json_lines.REQUEST_LIMIT_BYTES


@given(FLAT, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r: ")]))
@example({"": 0.0017950939636911247}, False, (",", ":"))
@example({"": 0.00012345678901234567}, False, (",", ":"))
def test_flat_objects_are_read_as_json_reads_them(
    value: dict[str, object], ascii_only: bool, separators: tuple[str, str]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    line = text.encode("utf-8", "surrogatepass")
    if short(line):
        expected = json.loads(text)
        found = json_lines.parse(line)
        assert found == expected
        assert found is not None
        assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@given(st.one_of(st.binary(max_size=60), MARKS.map(str.encode)))
@example(b'{"a":"\\ud800\\ud800\\udc00"}')
@example(b'{"a":1,"a":2}')
@example(b'{"a":-0}')
@example(b'{"a":1.}')
@example(b'{"a":01}')
@example(b'{"a":1e999}')
@example(b'{"a":NaN}')
@example(b'{"a":[1]}')
@example(b'{"a":1,}')
@example(b'{"a":"\t"}')
@example('{"a":"\u0661"}'.encode())
@example('{"a":\u0661}'.encode())
@example(b'{"a":1}x')
@example(b"\xef\xbb\xbf{}")
def test_nothing_is_read_that_json_would_not_read_so(line: bytes) -> None:
    found = json_lines.parse(line)
    if found is not None:
        assert found == json.loads(line.decode("utf-8"))
        assert not any(isinstance(value, (list, dict)) for value in found.values())


@given(st.text(alphabet='\\u"dDcC80fbnrtEe', max_size=40))
def test_escapes_mean_what_they_mean_to_json(text: str) -> None:
    line = f'{{"a":"{text}"}}'
    try:
        expected = json.loads(line)
    except ValueError:
        expected = None
    if expected is None or len(expected) == 1:
        assert json_lines.parse(line.encode()) == expected


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b'"x"', b"{", b'{"a"', b'{"a":', b'{"a":"', b'{"a":1', b'{"a":1,', b'{"a":"\\u00'],
)
def test_what_is_cut_is_no_message(line: bytes) -> None:
    assert json_lines.parse(line) is None


def test_there_are_limits() -> None:
    assert json_lines.parse(b'{"a":"' + b"x" * json_lines.REQUEST_LIMIT_BYTES + b'"}') is None
    assert json_lines.parse(json.dumps({str(n): n for n in range(33)}).encode()) is None
    assert json_lines.parse(b'{"a":' + b"9" * 19 + b"}") is None
    assert json_lines.line_of({"text": "x" * json_lines.LINE_LIMIT_BYTES}) == b""


def test_a_line_carries_the_version() -> None:
    assert json.loads(json_lines.line_of({"event": "step"})) == {"v": 1, "event": "step"}


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(VALUES)
def test_encode_reads_back_the_same(value: object) -> None:
    text = json_lines.encode(value)
    assert json.loads(text) == value
    assert "\n" not in text
    assert text.isascii()


@given(st.floats())
def test_numbers_that_json_has_no_word_for_become_null(value: float) -> None:
    read = json.loads(json_lines.encode(value))
    assert read is None or abs(read - value) <= 1e-6 or read == round(value, 6)
