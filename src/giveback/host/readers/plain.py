"""Convert records to plain values and back: a reader's answer is rebuilt field by field by its type.

pickle is not used, because a reader has handled a stranger's bytes and unpickling may run code. JSON yields
only plain values, its parser is in C, and its size is known before parsing. The fields are then checked
against the record's own annotations.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_WHOLE_LIMIT = 1 << 64
"""Upper bound of a plausible number: no address, size or time of a host is larger."""


def pack(value: object) -> object:
    """Convert a record, a tuple of records, …, to values of JSON. Raises TypeError for other types."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [pack(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple | list | frozenset):
        return [pack(one) for one in value]
    if isinstance(value, Mapping):
        return {key: pack(one) for key, one in value.items()}
    raise TypeError(f"{type(value).__name__} has no plain form")


def unpack(kind: type[T], value: object) -> T:
    """Rebuild an instance of `kind` from the result of `pack`. Raises ValueError if a value does not fit."""
    result: T = _unpacked(kind, value)
    return result


def encode(value: object) -> bytes:
    """Encode plain values as bytes; surrogates, which stand for bytes that are not UTF-8, are kept."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def decode(text: bytes) -> object:
    """Decode bytes to plain values. Raises ValueError if they are malformed."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unpacked(kind: Any, value: object) -> Any:  # noqa: ANN401
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value)
    if origin in (tuple, frozenset):
        return _several(origin, arguments, value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{str(value)[:80]!r} is not an object")
        return {key: _unpacked(arguments[1], one) for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        return _record(kind, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    return _single(kind, value)


def _single(kind: Any, value: object) -> Any:  # noqa: ANN401
    """Check a value without parts. A bool does not count as an int; an int is converted to a float field."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not (type(None) if kind is None else kind):
        raise ValueError(f"{str(value)[:80]!r} is not {getattr(kind, '__name__', kind)}")
    if isinstance(value, int) and abs(value) > _WHOLE_LIMIT:
        raise ValueError("a number is too large")
    return value


def _one_of(kinds: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401
    for kind in kinds:
        try:
            return _unpacked(kind, value)
        except ValueError:
            continue
    raise ValueError(f"{str(value)[:80]!r} has none of the allowed types")


def _several(origin: Any, kinds: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401
    if not isinstance(value, list):
        raise ValueError(f"{str(value)[:80]!r} is not a list")
    if origin is frozenset or kinds[1:] == (Ellipsis,):
        return origin(_unpacked(kinds[0], one) for one in value)
    if len(kinds) != len(value):
        raise ValueError(f"{len(value)} values for {len(kinds)}")
    return tuple(_unpacked(kind, one) for kind, one in zip(kinds, value, strict=True))


def _record(kind: Any, value: object) -> Any:  # noqa: ANN401
    hints = _hints(kind)
    if not isinstance(value, list) or len(value) != len(hints):
        raise ValueError(f"not the {len(hints)} fields of {kind.__name__}")
    return kind(*(_unpacked(hint, one) for hint, one in zip(hints, value, strict=True)))


@cache
def _hints(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401
    hints = get_type_hints(kind)
    return tuple(hints[field.name] for field in dataclasses.fields(kind))
