"""What is wrong in a settings file, in words: every fault with its full key and what is allowed."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from giveback.errors import InputError
from giveback.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHOWN_FAULTS = 50


def refused(source: str, wrong: Sequence[str]) -> InputError:
    """The error for a file in which all of `wrong` was found."""
    more = [f"and {len(wrong) - _SHOWN_FAULTS} more"] if len(wrong) > _SHOWN_FAULTS else []
    listed = [*wrong[:_SHOWN_FAULTS], *more]
    if len(listed) == 1:
        return InputError(f"{source}: {listed[0]}")
    return InputError(f"{source}: {len(wrong)} settings are wrong:\n  " + "\n  ".join(listed))


def lines_of(error: ValidationError, model: type) -> list[str]:
    """Each of pydantic's findings as a line."""
    return [_line(detail, model) for detail in error.errors(include_url=False)]


def key_path(parts: Sequence[str | int]) -> str:
    """The key as TOML writes it: `vm."ci-*".floor`, `access.read[1]`."""
    words: list[str] = []
    for part in parts:
        if isinstance(part, int):
            words[-1] += f"[{part}]"
        else:
            words.append(part if _BARE.fullmatch(part) else f'"{shown(part)}"')
    return ".".join(words)


def _line(detail: ErrorDetails, model: type) -> str:
    location = [part for part in detail["loc"] if part not in _PYDANTICS_OWN]
    kind, given = detail["type"], detail["input"]
    key = key_path(location)
    if kind == "unexpected_keyword_argument":
        return f"{key}: there is no such setting{_nearest(location, model)}"
    return f"{key}: must be {_allowed(detail)}, not {_as_given(given)}"


# Not keys of the file, but pydantic's names for the branches of a type.
_PYDANTICS_OWN = ("constrained-str",)


def _allowed(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    if kind in ("dataclass_type", "dataclass_exact_type", "dict_type"):
        return "a table"
    words = {
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": 'a list of text: ["alice", "@operators"]',
        "float_type": "a number",
        "finite_number": "a number",
    }
    return words.get(kind, str(detail["msg"]).removeprefix("Input ").removeprefix("should be "))


def _as_given(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    return shown(repr(value), 80)


def _nearest(location: Sequence[str | int], model: type) -> str:
    """`; did you mean …`, where a key of the same table is near; else what there is."""
    table: Any = model
    for part in location[:-1]:
        hints = get_type_hints(table) if is_dataclass(table) else {}
        inner = hints.get(str(part), table)
        arguments = [a for a in get_args(inner) if is_dataclass(a)]
        table = arguments[-1] if arguments else inner
    names = [spec.name for spec in fields(table)] if is_dataclass(table) else []
    close = difflib.get_close_matches(str(location[-1]), names, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are: {', '.join(names)}" if names else ""
