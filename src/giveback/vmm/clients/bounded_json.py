"""Parse untrusted JSON within limits of bytes, elements and depth. Pure.

Parsed objects need far more memory than the text (27 times as much for `[[],[],…`). So the elements are
counted before parsing, by their separators: separators within strings count too, so that the result is
never too small.
"""

from __future__ import annotations

import json

BYTES_LIMIT = 1 << 20
"""For comparison: of a large machine `info mtree -f` is below 200 KiB, and `GET /vm.info` below 20 KiB."""
ELEMENTS_LIMIT = 1 << 16
DEPTH_LIMIT = 64
_SEPARATORS = b",:[{"
_BYTES_OF_A_BYTE, _BYTES_OF_AN_ELEMENT = 9, 160
"""With one character outside the Basic Multilingual Plane, each character of the text and of the parsed
string needs four bytes. An object with one member needs 184 bytes and has three separators. Measured with
CPython 3.11."""


def elements_of(text: bytes) -> int:
    """Return an upper bound of the number of values and names in this JSON."""
    return 1 + sum(text.count(bytes((separator,))) for separator in _SEPARATORS)


def cost_bytes(text: bytes) -> int:
    """Return an upper bound of the memory for parsing this JSON and for its objects."""
    return len(text) * _BYTES_OF_A_BYTE + elements_of(text) * _BYTES_OF_AN_ELEMENT


def parse(text: bytes, bytes_limit: int = BYTES_LIMIT) -> object:
    """Parse JSON. Raises ValueError, which names the exceeded limit or says that it is not JSON."""
    if len(text) > bytes_limit:
        raise ValueError(f"more than {bytes_limit >> 10} KiB")
    if elements_of(text) > ELEMENTS_LIMIT:
        raise ValueError(f"more than {ELEMENTS_LIMIT} elements")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEPTH_LIMIT} deep") from error
    except ValueError as error:
        # The parser's own message may quote the text: invalid UTF-8, a number of 5,000 digits.
        raise ValueError("not JSON") from error
    if _depth_of(value) > DEPTH_LIMIT:
        raise ValueError(f"nested more than {DEPTH_LIMIT} deep")
    return value


def _depth_of(value: object) -> int:
    """Return the nesting depth of arrays and objects, at most one more than the limit."""
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
