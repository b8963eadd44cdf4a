"""Options that are sizes and spans: in bounds, or an error that names the option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.arguments import bounded, size_of, span_of
from giveback.errors import InputError


@given(st.text(max_size=60))
def test_any_text_is_in_bounds_or_an_error_that_names_the_option(text: str) -> None:
    try:
        assert size_of(text, "--mem") >= 0
    except InputError as error:
        assert "--mem" in str(error)  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
    try:
        assert 1 <= span_of(text, "--since", 1, 3600) <= 3600
    except InputError as error:
        assert "--since" in str(error)  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lots", "--mem 'lots': not a size: write it like 512M, 4G or 1.5T"),
        ("0", "--mem '0': must be above 0 and at most 8.0 GiB"),
        ("9G", "--mem '9G': must be above 0 and at most 8.0 GiB"),
    ],
)
def test_an_error_says_which_sizes_are_allowed(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        size_of(text, "--mem", 8 << 30)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soon", "--within 'soon': not a span of time: write it like 90s, 15m, 2h or 7d"),
        ("2h", "--within '2h': must be from 100ms to 1h"),
        ("0", "--within '0': must be from 100ms to 1h"),
    ],
)
def test_an_error_says_which_spans_are_allowed(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        span_of(text, "--within", 0.1, 3600)
    assert str(caught.value) == words


@given(st.integers() | st.floats(), st.integers(-5, 0), st.integers(1, 2**31))
def test_a_number_is_in_bounds_or_an_error_that_names_them(
    value: float, least: int, most: int
) -> None:
    try:
        assert least <= bounded(value, "--seed", least, most, " pieces") <= most
    except InputError as error:
        assert str(error).startswith("--seed ")  # noqa: PT017
        assert str(error).endswith(f": must be {least} to {most} pieces")  # noqa: PT017
