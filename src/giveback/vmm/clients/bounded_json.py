"""Foreign JSON, parsed only where what it becomes is small: within limits of bytes, elements and depth. Pure.

As objects an answer takes far more than its bytes (`[[],[],…` 27 times as much), so its elements are
counted before it is parsed: by its separators, which is more where strings have some, and never less.
"""

from __future__ import annotations

import json

BYTES_LIMIT = 1 << 20
"""`info mtree -f` of a large machine is below 200 KiB, `GET /vm.info` of one below 20."""
ELEMENTS_LIMIT = 1 << 16
DEPTH_LIMIT = 64
_SEPARATORS = b",:[{"
_BYTES_OF_A_BYTE, _BYTES_OF_AN_ELEMENT = 9, 160
"""A character outside of the Basic Multilingual Plane makes all of a text four bytes each, and of the
string in it; an object with one member is 184 bytes and has three separators. Measured with CPython 3.11."""


def elements_of(text: bytes) -> int:
    """Return at least as many as there are values and names in this JSON."""
    return 1 + sum(text.count(bytes((separator,))) for separator in _SEPARATORS)


def cost_bytes(text: bytes) -> int:
    """Return the most memory that this takes while it is parsed, and as objects."""
    return len(text) * _BYTES_OF_A_BYTE + elements_of(text) * _BYTES_OF_AN_ELEMENT


def parse(text: bytes, bytes_limit: int = BYTES_LIMIT) -> object:
    """Return what this JSON says. Raises ValueError with the limit that it passes, or as no JSON."""
    if len(text) > bytes_limit:
        raise ValueError(f"more than {bytes_limit >> 10} KiB")
    if elements_of(text) > ELEMENTS_LIMIT:
        raise ValueError(f"more than {ELEMENTS_LIMIT} elements")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEPTH_LIMIT} deep") from error
    except ValueError as error:
        # The parser's own words may hold the text: a byte that is no UTF-8, a number of 5,000 digits.
        raise ValueError("no JSON") from error
    if _depth_of(value) > DEPTH_LIMIT:
        raise ValueError(f"nested more than {DEPTH_LIMIT} deep")
    return value


def _depth_of(value: object) -> int:
    """How deep arrays and objects are nested; not further than one beyond the limit."""
    depth, level = 0, [value]
    while level and depth <= DEPTH_LIMIT:
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
            elif isinstance(one, list):
                below += one
        depth, level = depth + bool(below or _is_container(level)), below
    return depth


def _is_container(level: list[object]) -> bool:
    return any(isinstance(one, dict | list) for one in level)
