"""The .wslconfig syntax: by WSL's published rules and its own tests' cases, and never a crash."""

from __future__ import annotations

import ctypes
import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from giveback_agent.wsl import wslconfig
from giveback_agent.wsl.wslconfig import (
    FILE_LIMIT_BYTES,
    INT_MAX,
    INT_MIN,
    WARNING_LIMIT,
    ConfigEntry,
    parse,
    parse_bool,
    parse_enum,
    parse_int,
)

F = "/mnt/c/Users/me/.wslconfig"

ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,11}", fullmatch=True)
# What a value may hold: anything but NUL, CR and LF that is not written as an escape.
values = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=30)
# Pieces that meet every branch of the scanner far more often than random text would.
NAME_PIECES = ("[wsl2]", "[experimental]", "[wsl2 ]", "[", "]", "memory", "a1", "_", "4GB", "é")
SIGN_PIECES = ("=", "\n", "\r\n", "\r", " ", "\t", "#", '"', ";", "\0", "a=b\n")
ESCAPE_PIECES = ("\\", "\\n", "\\\n", "\\q")
pieces = st.lists(st.sampled_from((*NAME_PIECES, *SIGN_PIECES, *ESCAPE_PIECES)), max_size=30).map(
    "".join
)


def entries(text: str) -> list[tuple[str, str, int]]:
    return [(e.name, e.value, e.line) for e in parse(text.encode(), F)[0]]


def warnings(text: str) -> tuple[str, ...]:
    return parse(text.encode(), F)[1]


# Each case was also run through a transcription of WSL's own parser.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[wsl2]\nmemory=4GB", [("wsl2.memory", "4GB", 2)]),
        ("memory=4GB\n", [("memory", "4GB", 1)]),
        ("[a]\n  k \t= v w \t\n", [("a.k", "v w", 2)]),
        ("[a] # comment\nk=v# comment\nl=w\n", [("a.k", "v", 2), ("a.l", "w", 3)]),
        ("k=1#x\nl=2\n\nm=3\n", [("k", "1", 1), ("l", "2", 2), ("m", "3", 4)]),
        ('k=" v "  # c\n', [("k", " v ", 1)]),
        ('k="a # b"\n', [("k", "a # b", 1)]),
        ('k=a"b"c\n', [("k", "abc", 1)]),
        ('k=\\"q\\" \\\\ \\b\\n\\t\n', [("k", '"q" \\ \b\n\t', 1)]),
        ("k=one \\\n  two\nl=3\n", [("k", "one   two", 2), ("l", "3", 3)]),
        ('k="one \\\ntwo"\n', [("k", "one two", 2)]),
        ("k=v\\t \n", [("k", "v\t", 1)]),
        ("k=\n", [("k", "", 1)]),
        ("k=#\n", [("k", "", 1)]),
        ("k==v\n", [("k", "=v", 1)]),
        ("[a]\r\nk=v\r\nl=w \\\r\n x\r\n", [("a.k", "v", 2), ("a.l", "w  x", 4)]),
        ("a=1\rb=2\n", [("a", "1", 1), ("b", "2", 2)]),
        ("[a]\n[b]\nk=v", [("b.k", "v", 3)]),
        # A header broken at its first character leaves the section as it was ...
        ("[wsl2]\n[=b\nk=v", [("wsl2.k", "v", 3)]),
        # ... one broken later is cut to the old one's length: here, that is the same section.
        ("[wsl2]\n[wsl2\nk=v", [("wsl2.k", "v", 3)]),
        ("[wsl2]\n[experimental] x\nk=v", [("expe.k", "v", 3)]),
        ("[experimental\nk=v", [("k", "v", 2)]),
    ],
)
def test_entries(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert entries(text) == expected


# The messages and line numbers are those of WSL's own tests (test/windows/UnitTests.cpp, Warnings).
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[=b", "Invalid section name in {}:1"),
        ("\n[sectionNotComplete", "Expected ']' in {}:2"),
        ("[a] b", "Expected ' ' or '\\n' in {}:1"),
        ("NoEqual", "Expected '=' in {}:1"),
        ("a_b=1", "Expected '=' in {}:1"),
        ("; comment", "Invalid key name in {}:1"),
        ("1a=2", "Invalid key name in {}:1"),
        ("[wsl2]\nnetworkingMode=a\\m", "Invalid escaped character: 'm' in {}:2"),
        ("k=a\\", "Invalid escaped character: '' in {}:1"),
        ('k="a\nl=b', 'Expected " in {}:1'),
        ('k="a # b\n', 'Expected " in {}:1'),
    ],
)
def test_a_broken_line_is_a_warning_and_nothing_else(text: str, expected: str) -> None:
    assert warnings(text) == (expected.format(F),)


@given(pieces)
def test_a_broken_line_takes_no_other_with_it(junk: str) -> None:
    first_line = re.split(r"[\r\n]", junk)[0]
    if first_line.endswith("\\"):
        first_line += "q"
    found = entries(f"[a]\nk=v\nx=\\q{first_line}\nl=w\n")
    assert found == [("a.k", "v", 2), ("a.l", "w", 4)]


def test_first_of_duplicates_wins_whatever_its_case() -> None:
    text = "[wsl2]\nipv6=true\n[WSL2]\nIPV6=false\n"
    assert entries(text) == [("wsl2.ipv6", "true", 2)]
    conflict = f"(Conflicting key: 'wsl2.ipv6' in {F}:2)"
    assert warnings(text) == (f"Duplicated config key 'WSL2.IPV6' in {F}:4 {conflict}",)


@given(st.binary(max_size=400) | pieces.map(str.encode) | pieces.map(lambda s: s.encode("utf-16")))
@example(b"\xff\xfe")
@example(b"\xfe\xff\x00[")
@example(b"\xef\xbb\xbf")
def test_any_bytes_give_well_formed_entries_and_bounded_warnings(data: bytes) -> None:
    found, said = parse(data, F)
    lines = data.count(b"\n") + data.count(b"\r") + 1
    for entry in found:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", entry.key)
        assert re.fullmatch(r"([A-Za-z][A-Za-z0-9]*\0*)?", entry.section)
        assert "\0" not in entry.value
        assert 1 <= entry.line <= lines
    assert len({e.name.lower() for e in found}) == len(found)
    assert len(said) <= WARNING_LIMIT + 1
    assert all(F in w and "\n" not in w and "\x1b" not in w for w in said)


@given(st.lists(st.tuples(names, names, values), max_size=6))
def test_what_is_written_is_read(wanted: list[tuple[str, str, str]]) -> None:
    lines = []
    for section, key, value in wanted:
        escaped = "".join(ESCAPED.get(char, char) for char in value)
        lines += [f"[{section}]", f'{key} = "{escaped}" # comment']
    expected: dict[str, ConfigEntry] = {}
    for number, (section, key, value) in enumerate(wanted, 1):
        entry = ConfigEntry(section, key, value, 2 * number)
        expected.setdefault(entry.name.lower(), entry)
    assert parse("\n".join(lines).encode(), F)[0] == tuple(expected.values())


@given(pieces.filter(lambda s: "\r" not in s))
def test_line_ends_and_encodings_of_windows_change_nothing(text: str) -> None:
    plain = parse(text.encode(), F)
    assert parse(text.replace("\n", "\r\n").encode(), F) == plain
    assert parse(b"\xef\xbb\xbf" + text.encode(), F) == plain
    if text:
        for order in ("le", "be"):
            assert parse(f"\ufeff{text}".encode(f"utf-16-{order}"), F) == plain


def test_what_is_not_utf8_is_said_once_with_its_line() -> None:
    found, said = parse(b"a=1\nb=\xff\xff\nc=3\n\xff", F)
    assert [e.key for e in found] == ["a", "b", "c"]
    assert [w for w in said if "UTF-8" in w] == [f"Not UTF-8 in {F}:2: save the file as UTF-8"]


def test_utf16_without_a_mark_is_explained() -> None:
    _, said = parse("[wsl2]\nmemory=4GB\n".encode("utf-16-le"), F)
    assert any("UTF-16 with no byte-order mark" in w for w in said)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_enormous_file_is_cut_at_a_line(encoding: str) -> None:
    line = "k{}=vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\n"
    text = "".join(line.format(i) for i in range(FILE_LIMIT_BYTES // 40))
    found, said = parse(text.encode(encoding), F)
    assert 500 < len(found) < FILE_LIMIT_BYTES // 40
    assert all(len(e.value) == len(found[0].value) for e in found)
    assert said == (f"{F} is longer than {FILE_LIMIT_BYTES} bytes: the rest is not read",)


def test_a_file_of_rubbish_gives_a_bounded_number_of_warnings() -> None:
    said = parse(b";\n" * 5000, F)[1]
    assert len(said) == WARNING_LIMIT + 1
    assert said[-1] == f"4950 more warnings for {F} left out"


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.strtol.restype = ctypes.c_long

number_like = st.text(st.sampled_from("0123456789xXabBKMGT+- \t\n."), max_size=8)


@given(number_like | st.integers().map(str) | st.integers(0, 1 << 40).map(hex))
@example("0x")
@example("08")
@example("-0x80000000")
def test_integers_are_read_as_strtol_reads_them(text: str) -> None:
    buffer = ctypes.create_string_buffer(text.encode())
    end = ctypes.c_char_p()
    number = LIBC.strtol(buffer, ctypes.byref(end), 0)
    valid = text != "" and not end.value and INT_MIN <= number <= INT_MAX
    assert parse_int(text) == (number if valid else None)


@given(st.sampled_from(["1", "0", "true", "false"]), st.data())
def test_booleans_in_any_case_and_nothing_else(word: str, data: st.DataObject) -> None:
    cased = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in word)
    assert parse_bool(cased) is (word in ("1", "true"))
    other = data.draw(st.text(string.printable, max_size=6))
    assert parse_bool(other) is {"1": True, "true": True, "0": False, "false": False}.get(
        other.lower()
    )


@given(st.text(max_size=12))
def test_enums_in_any_case(text: str) -> None:
    choices = ("Disabled", "DropCache", "Gradual")
    assert all(parse_enum(c.upper(), choices) == c for c in choices)
    assert parse_enum(text, choices) in (None, *choices)


@given(st.text())
def test_what_is_shown_is_one_printable_bounded_line(text: str) -> None:
    said = wslconfig.quoted_value(text)
    assert said.isprintable()
    assert len(said) <= 10 * wslconfig.SHOWN_LIMIT_CHARS + 3
