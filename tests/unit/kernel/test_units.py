"""Sizes and spans of time: each grammar by its source's cases, at its edges, and read back."""

from __future__ import annotations

import ctypes
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel.units import (
    GIB,
    KIB,
    MIB,
    WSL_SIZE_MAX_BYTES,
    WSL_SIZE_UNITS,
    format_span,
    format_wsl_size,
    parse_qemu_size,
    parse_size,
    parse_span,
    parse_wsl_size,
    size,
    span,
)

FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


# --- as people write them


@given(st.integers(0, 10**6), st.sampled_from(sorted(FACTORS)), st.sampled_from(["", "B", "iB"]))
def test_sizes(number: int, factor: str, tail: str) -> None:
    tail = tail if factor else tail.replace("i", "")
    assert parse_size(f"{number}{factor}{tail}") == number * FACTORS[factor]
    assert parse_size(f" {number} {factor.lower()}") == number * FACTORS[factor]
    assert parse_size(f"{number}.5{factor}{tail}") == (2 * number + 1) * FACTORS[factor] // 2


@pytest.mark.parametrize(
    "text",
    ["", "G", "iB", "1iB", "-1G", "2 G B", "1e3", "inf", "nan", "2GG", "0x10", "٢Gx", "2  G", "2\tG",
     "1.G", ".5G", "1.2.3G", "1_000", "2\u212a", "9" * 41, "1P"],
)  # fmt: skip
def test_no_sizes(text: str) -> None:
    assert parse_size(text) is None


@given(st.text(max_size=30) | st.from_regex(r"[0-9.xXeE_ -]{0,8}[a-zA-Z ]{0,4}", fullmatch=True))
def test_any_text_is_a_size_or_none_and_so_a_span(text: str) -> None:
    for found in (parse_size(text), parse_span(text), parse_qemu_size(text), parse_wsl_size(text)):
        assert found is None or found >= 0


@given(st.integers(-(1 << 60), 1 << 60))
def test_sizes_are_shown(value: int) -> None:
    assert size(value).split()[1] in ("KiB", "MiB", "GiB")


@given(st.integers(0, 1023), st.sampled_from([KIB, MIB, GIB]))
def test_a_size_of_whole_units_is_read_back_as_it_was(number: int, unit: int) -> None:
    assert parse_size(size(number * unit)) == number * unit


@given(st.integers(0, 10**9), st.sampled_from(sorted(SECONDS)))
def test_spans(number: int, unit: str) -> None:
    assert parse_span(f"{number}{unit}") == number * SECONDS[unit]
    assert parse_span(f" {number} {unit.upper()}") == number * SECONDS[unit]
    assert parse_span(f"{number}.5{unit}") == (number + 0.5) * SECONDS[unit]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), (" 7D ", 7 * 86400), ("45", 45), ("1w", 604800),
     ("1.5h", 5400), ("250 ms", 0.25), ("0.1", 0.1), ("soon", None), ("-1s", None), ("", None),
     ("h", None), ("1y", None), ("1:30", None), ("1e2", None), ("nan", None), ("inf", None),
     ("٣s", None), ("9" * 41, None)],
)  # fmt: skip
def test_spans_of_time(text: str, seconds: float | None) -> None:
    assert parse_span(text) == seconds


@given(st.integers(0, 366 * 86_400_000))
def test_a_span_that_is_written_is_read_back(milliseconds: int) -> None:
    assert parse_span(format_span(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "100ms"), (90, "90s"), (3600, "1h"), (366 * 86400, "366d")]
)
def test_spans_are_written_in_the_largest_exact_unit(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


# --- as QEMU reads them


@pytest.mark.parametrize(
    ("text", "value"),
    [("2G", 2 * GIB), ("512", 512), ("1.5g", 3 * GIB // 2), ("0x10", 16), ("4T", 4 << 40),
     ("+512", 512), ("0x10k", 16 << 10), ("++1", None), ("0x", None), ("0xk", None), ("0x1e", 30),
     ("", None), ("G", None), ("-1", None), ("1e3", None), ("٣", None), ("1.", None)],
)  # fmt: skip
def test_sizes_of_qemu(text: str, value: int | None) -> None:
    assert parse_qemu_size(text) == value


def test_a_hexadecimal_size_of_memory_is_in_mib_if_it_ends_in_a_decimal_digit() -> None:
    assert parse_qemu_size("0x800", "m") == 2 * GIB
    assert parse_qemu_size("0x80f", "m") == 0x80F


# --- as WSL reads them


# WSL's own cases (test/windows/SimpleTests.cpp), and its rules at their edges.
@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        (" 1", 1),
        ("1KB", 1 << 10),
        ("9G", 9 << 30),
        ("1B", 1),
        ("2T", 2 << 40),
        ("0GB", 0),
        ("+1MB", 1 << 20),
        ("007", 7),
        ("18446744073709551615", WSL_SIZE_MAX_BYTES),
        ("16777215TB", 16777215 << 40),
        ("1 B", None),
        ("foo", None),
        ("", None),
        ("0foo", None),
        ("/", None),
        ("1kb", None),
        ("1.5GB", None),
        ("00", None),
        (" 0", None),
        ("1BB", None),
        ("1KiB", None),
        ("GB", None),
        ("-1", None),
        ("18446744073709551616", None),
        ("16777216TB", None),
        ("\u0661", None),
        ("9" * 5000, None),
    ],
)
def test_sizes_of_wsl(text: str, size_bytes: int | None) -> None:
    assert parse_wsl_size(text) == size_bytes


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.strtoull.restype = ctypes.c_ulonglong

number_like = st.text(st.sampled_from("0123456789xXabBKMGT+- \t\n."), max_size=8)


@given(number_like)
def test_sizes_are_read_as_strtoull_reads_them(text: str) -> None:
    """WSL's rule with the C library it is written with: a number, a known unit, and no more."""
    buffer = ctypes.create_string_buffer(text.encode())
    end = ctypes.c_char_p()
    number = LIBC.strtoull(buffer, ctypes.byref(end), 10)
    rest = (end.value or b"").decode()
    read = len(text) - len(rest)
    zero_is_bare = text[:1] == "0" and read == 1
    valid = rest in WSL_SIZE_UNITS and "-" not in text and (number != 0 or zero_is_bare)
    assert parse_wsl_size(text) == (number * WSL_SIZE_UNITS[rest] if valid else None)


@given(st.integers(0, WSL_SIZE_MAX_BYTES))
def test_a_size_written_is_read_back(size_bytes: int) -> None:
    assert parse_wsl_size(format_wsl_size(size_bytes)) == size_bytes


@given(st.integers(1, 1 << 70), st.sampled_from(sorted(WSL_SIZE_UNITS)))
def test_a_size_that_does_not_fit_is_refused_not_wrapped(count: int, unit: str) -> None:
    expected = count * WSL_SIZE_UNITS[unit]
    assert parse_wsl_size(f"{count}{unit}") == (
        expected if expected <= WSL_SIZE_MAX_BYTES else None
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.04, "0 s"), (0.4, "0.4 s"), (5.0, "5 s"), (9.96, "9 s"), (12.7, "12 s"),
        (60, "1 min"), (125, "2 min 5 s"), (1653, "27 min"), (7500, "2 h 5 min"), (40_000, "11 h"),
        (100_000, "1 d 3 h"), (1e6, "11 d"), (-5, "0 s"), (math.inf, "?"), (math.nan, "?"), (1e300, "?"),
    ],
)  # fmt: skip
def test_a_span_is_written_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


@given(st.floats(0, 1e12))
def test_a_span_that_is_written_is_short_and_near(seconds: float) -> None:
    words = span(seconds).split()
    assert len(words) in (2, 4)
    assert float(words[0]) < 60 or words[1] == "d"
    back = sum(float(n) * SECONDS[unit] for n, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(back - seconds) <= max(1.0, seconds / 10)
