"""Untrusted text: printable, in bounds, and never changed twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel.escaping import escape_for_terminal


@given(
    st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.integers(3, 60),
    st.sampled_from(["…", "...", ""]),
)
def test_shown_text_is_one_safe_line(text: str, limit: int, ellipsis: str) -> None:
    safe = escape_for_terminal(text, limit, ellipsis)
    assert safe.isprintable()
    assert len(safe) <= limit
    safe.encode("utf-8")
    assert escape_for_terminal(safe, limit, ellipsis) == safe
    if text.isprintable() and len(text) <= limit:
        assert safe == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07text", r"\x1b]0;title\x07text"),
        ("a\r\nb", r"a\r\nb"),
        ("a\tb", r"a\tb"),
        ("left\u202eright", r"left\u202eright"),
        ("\x9b31m", r"\x9b31m"),
        ("gr\u00fc\u00df", "gr\u00fc\u00df"),
        ("x" * 400, "x" * 297 + "..."),
        ("\x1b" * 400, r"\x1b" * 74 + r"\..."),
    ],
)
def test_safe_text(text: str, safe: str) -> None:
    assert escape_for_terminal(text, 300, "...") == safe
