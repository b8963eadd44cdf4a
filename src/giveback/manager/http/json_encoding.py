"""The manager's data as JSON documents: every field by its name, amounts in bytes, unknown is null."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping


def document(value: object) -> object:
    """What json.dumps takes. Text that is no UTF-8 is made some; numbers that are none are null."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        # str() of a StrEnum, too. Names come from the command lines of others.
        return str(value) if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(document(str(key))): document(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [document(part) for part in value]
    if dataclasses.is_dataclass(value):
        return {f.name: document(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise TypeError(f"no JSON for a {type(value).__name__}")


def encoded(value: object) -> bytes:
    """A document's bytes."""
    return json.dumps(document(value), separators=(",", ":"), ensure_ascii=False).encode()
