"""Which cgroups the agent takes nothing from: the setting `giveback.exclude`. Pure.

A pattern without a slash names a unit anywhere: `postgresql.service`, `libpod-*`. One with a slash is a path
from the root cgroup: `machine.slice/libpod-*`. `*` stands for any characters of one name, `?` for one. All
below an excluded cgroup is excluded, too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PATTERNS_LIMIT = 32
PATTERN_LIMIT_CHARS = 200


def parse_patterns(text: str) -> tuple[str, ...] | None:
    """Return the patterns of a setting's value, between commas; None where one of them is not a pattern."""
    patterns = [part.strip() for part in text.split(",")]
    patterns = [part for part in patterns if part]
    if len(patterns) > PATTERNS_LIMIT or not all(_is_pattern(part) for part in patterns):
        return None
    return tuple(patterns)


def is_excluded(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether the cgroup at `path`, from the root cgroup (`/system.slice/x.service`), is excluded."""
    names = _names_of(path)
    return any(_matches(names, pattern) for pattern in patterns)


def kept(folders: Sequence[str], mount: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return those cgroup folders below `mount` that are not excluded."""
    top = mount.rstrip("/")
    return tuple([f for f in folders if not is_excluded(f[len(top) :], patterns)])


def _is_pattern(text: str) -> bool:
    """Refuse what would match the root, or could never match a name."""
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
    """Tell whether one name matches a pattern of `*` and `?`; in time of their lengths' product at most."""
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
