"""Describe errors of a settings file or a request: each with its full key, and what is allowed."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic_core import PydanticCustomError

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHOWN_FAULTS = 50
_SHOWN_BITS = 256
_KEY_CHARS = 120
_IN_WORDS = "in_words"


def refused(source: str, wrong: Sequence[str]) -> InputError:
    """Return the error for a file with these errors in it; at most 50 are listed."""
    more = [f"and {len(wrong) - _SHOWN_FAULTS} more"] if len(wrong) > _SHOWN_FAULTS else []
    listed = [*wrong[:_SHOWN_FAULTS], *more]
    if len(listed) == 1:
        return InputError(f"{source}: {listed[0]}")
    return InputError(f"{source}: {len(wrong)} settings are wrong:\n  " + "\n  ".join(listed))


def in_words(words: str, *inner: str) -> PydanticCustomError:
    """Return the error for a validator whose message is `words`; `inner`: the key below its own."""
    return PydanticCustomError(_IN_WORDS, "{words}", {"words": words, "inner": inner})


def lines_of(error: ValidationError, model: type) -> list[str]:
    """Return each of pydantic's findings as a line."""
    return [line_of(detail, model) for detail in error.errors(include_url=False)]


def key_path(parts: Sequence[str | int]) -> str:
    """Return the key as TOML writes it: `vm."ci-*".floor`, `access.read[1]`."""
    words: list[str] = []
    for part in parts:
        if isinstance(part, int):
            words[-1] += f"[{part}]"
        else:
            is_bare = len(part) <= _KEY_CHARS and _BARE.fullmatch(part)
            words.append(part if is_bare else f'"{escape_for_terminal(part, _KEY_CHARS)}"')
    return ".".join(words)


def line_of(detail: ErrorDetails, model: type, called: str = "setting") -> str:
    """Return one finding as a line: what is wrong, and what is allowed.

    `called`: the word for a key, such as "setting".
    """
    location, context = detail["loc"], detail.get("ctx", {})
    if not location:
        return "the body: must be a JSON object"
    key = key_path((*location, *context.get("inner", ())))
    if detail["type"] == _IN_WORDS:
        return f"{key}: {context['words']}"
    if detail["type"] == "unexpected_keyword_argument":
        return f"{key}: there is no such {called}{_nearest(location, model)}"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: must be {_allowed(detail)}, not {_as_given(detail['input'])}"


def _allowed(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    if kind in ("dataclass_type", "dataclass_exact_type", "dict_type"):
        return "a table"
    words = {
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": 'a list of text, such as ["alice"]',
        "too_long": f"a list of at most {detail.get('ctx', {}).get('max_length')}",
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "float_type": "a number",
        "finite_number": "a number",
    }
    return words.get(kind, str(detail["msg"]).removeprefix("Input ").removeprefix("should be "))


def _as_given(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return "a number that long"  # Python refuses to write one of more than 4,300 digits.
    return escape_for_terminal(repr(value), 80)


def _nearest(location: Sequence[str | int], model: type) -> str:
    """Return `; did you mean …?` if a key of the same table is similar; else a list of its keys."""
    table: Any = model
    for part in location[:-1]:
        inner = get_type_hints(table).get(str(part), table)
        arguments = [a for a in get_args(inner) if is_dataclass(a)]
        table = arguments[-1] if arguments else inner
    # A field whose name is a Python keyword ends in `_`.
    names = [spec.name.rstrip("_") for spec in fields(table)]
    close = difflib.get_close_matches(str(location[-1]), names, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(names)}"
