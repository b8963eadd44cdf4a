"""Which `[vm."PATTERN"]` tables speak of a VM, and which of them has the last word. Pure."""

from __future__ import annotations

import fnmatch

_WILD = "*?["


def matches(pattern: str, name: str) -> bool:
    """Whether a VM's name is meant: `*`, `?` and `[…]` as in a shell, case counts."""
    return fnmatch.fnmatchcase(name, pattern)


def specificity(pattern: str) -> tuple[bool, int, int]:
    """The larger, the more specific: a plain name, then more literal characters, then fewer `*`.

    `[abc]` is one character of a few, so it says more than `?` does; neither is literal.
    """
    literal = stars = 0
    index = 0
    while index < len(pattern):
        char = pattern[index]
        end = pattern.find("]", index + 2) if char == "[" else -1
        if end > 0:
            index = end
        elif char == "*":
            stars += 1
        elif char != "?":
            literal += 1
        index += 1
    return not any(char in pattern for char in _WILD), literal, -stars
