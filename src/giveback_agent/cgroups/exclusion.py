"""The setting `giveback.exclude`: patterns of cgroups whose memory the agent does not reclaim. Pure.

A pattern without a slash matches a unit's name anywhere: `postgresql.service`, `libpod-*`. One with a slash
is a path from the root cgroup: `machine.slice/libpod-*`. `*` matches any characters within one name, `?`
one character. Cgroups below an excluded one are excluded as well.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PATTERNS_LIMIT = 32
PATTERN_LIMIT_CHARS = 200


def parse_patterns(text: str) -> tuple[str, ...] | None:
    """Parse the comma-separated patterns of the setting; return None if one of them is not valid."""
    patterns = [part.strip() for part in text.split(",")]
    patterns = [part for part in patterns if part]
    if len(patterns) > PATTERNS_LIMIT or not all(_is_pattern(part) for part in patterns):
        return None
    return tuple(patterns)


def is_excluded(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether the cgroup at `path` (from the root: `/system.slice/x.service`) is excluded."""
    names = _names_of(path)
    return any(_matches(names, pattern) for pattern in patterns)


def kept(folders: Sequence[str], mount: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return those cgroup folders below `mount` that are not excluded."""
    top = mount.rstrip("/")
    return tuple([f for f in folders if not is_excluded(f[len(top) :], patterns)])


def _is_pattern(text: str) -> bool:
    """Tell whether a pattern is valid: it does not match the root, and can match a name."""
    names = _names_of(text)
    is_whole = bool(names) and "" not in names and not {".", ".."} & set(names)
    return is_whole and len(text) <= PATTERN_LIMIT_CHARS and text.isprintable()


def _names_of(path: str) -> list[str]:
    stripped = path.strip("/")
    return stripped.split("/") if stripped else []


def _matches(names: list[str], pattern: str) -> bool:
    wanted = _names_of(pattern)
    if "/" not in pattern:
        return any(matches_name(name, pattern) for name in names)
    return len(names) >= len(wanted) and all(map(matches_name, names, wanted))


def matches_name(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern of `*` and `?`, in time of at most the product of the lengths."""
    at = there = 0
    star, resume = -1, 0
    while at < len(name):
        if there < len(pattern) and pattern[there] == "*":
            star, resume = there, at
            there += 1
        elif there < len(pattern) and pattern[there] in ("?", name[at]):
            at, there = at + 1, there + 1
        elif star >= 0:
            resume += 1
            at, there = resume, star + 1
        else:
            return False
    return not pattern[there:].strip("*")
