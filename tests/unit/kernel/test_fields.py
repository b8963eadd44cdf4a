"""Strict readings of single tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import fields
from giveback_kernel.errors import KernelFileError


@settings(deadline=None)
@given(st.integers(0, fields.COUNTER_LIMIT - 1))
def test_a_counter_is_read_back(value: int) -> None:
    assert fields.number("/f", "n", b"%d" % value) == value


@settings(deadline=None)
@given(st.integers(-(fields.COUNTER_LIMIT - 1), fields.COUNTER_LIMIT - 1))
def test_a_signed_number_is_read_back(value: int) -> None:
    assert fields.signed("/f", "n", b"%d" % value) == value


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b" 1",
        b"1 ",
        b"-1",
        b"+1",
        b"1_0",
        b"0x1",
        b"1.0",
        b"1e3",
        "\N{ARABIC-INDIC DIGIT ONE}".encode(),
        b"9" * 21,
        b"%d" % fields.COUNTER_LIMIT,
    ],
)
def test_what_no_kernel_prints_is_no_number(token: bytes) -> None:
    with pytest.raises(KernelFileError, match="/f: n is "):
        fields.number("/f", "n", token)


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 99))
def test_a_percentage_is_read_back(whole: int, hundredths: int) -> None:
    token = b"%d.%02d" % (whole, hundredths)
    if whole == 100 and hundredths > 0:
        with pytest.raises(KernelFileError, match="absurd"):
            fields.percent("/f", "avg10", token)
    else:
        assert fields.percent("/f", "avg10", token) == float(token)


@pytest.mark.parametrize("token", [b"", b"1", b".5", b"1.", b"-1.0", b"nan", b"inf", b"1.0e9"])
def test_what_no_kernel_prints_is_no_percentage(token: bytes) -> None:
    with pytest.raises(KernelFileError, match="avg10"):
        fields.percent("/f", "avg10", token)


@settings(deadline=None)
@given(st.binary())
def test_an_unfinished_line_is_never_returned(data: bytes) -> None:
    assert b"".join(one + b"\n" for one in fields.lines(data)) == data[: data.rfind(b"\n") + 1]


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_become_text_that_can_be_shown(data: bytes) -> None:
    fields.text(data).encode()
    assert len(fields.quoted(data)) < 200
    assert fields.quoted(data).isascii()


@settings(deadline=None)
@given(st.binary().filter(lambda name: b"\0" not in name))
def test_a_mangled_name_is_restored(name: bytes) -> None:
    mangled = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in name)
    assert fields.unescaped(mangled) == name
