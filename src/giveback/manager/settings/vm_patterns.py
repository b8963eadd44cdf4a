"""Match `[vm."PATTERN"]` tables with a VM's name, and order them by how specific they are. Pure."""

from __future__ import annotations

import fnmatch

_WILD = "*?["


def matches(pattern: str, name: str) -> bool:
    """Return whether a VM's name matches: `*`, `?` and `[…]` as in a shell, case-sensitive."""
    return fnmatch.fnmatchcase(name, pattern)


def specificity(pattern: str) -> tuple[bool, int, int]:
    """Return a sort key; larger is more specific: a plain name, then more literal characters, then fewer `*`.

    `[abc]` and `?` do not count as literal characters.
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
