"""Decode stored JSON into dataclasses: check their fields' types and report errors with their place.

pydantic checks the annotations. A number must be a number in the file: neither text nor true
counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Strict

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST = 1 << 62
WholeNumber = Annotated[int, Strict(), Field(ge=-MOST, le=MOST)]
Bytes = Annotated[int, Strict(), Field(ge=0, le=MOST)]
Number = Annotated[float, Strict(), Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Seconds = Number

_WORDS = {"dataclass_type": "should be an object", "tuple_type": "should be a list"}


def fault(error: ValidationError) -> str:
    """Return the first error, such as `vms[1].samples[0].t_s: what is wrong there`."""
    first, *others = error.errors(include_url=False)
    said = _WORDS.get(first["type"]) or str(first["msg"]).removeprefix("Input ").lower()
    given = "" if first["type"] == "missing" else f", not {_short(repr(first['input']))}"
    more = f" (and {len(others)} more)" if others else ""
    path = (f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in first["loc"])
    place = "".join(path).removeprefix(".")
    return f"{place}: {said}{given}{more}" if place else f"{said}{given}{more}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
