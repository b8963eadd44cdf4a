"""The guest's memory as rows that do not overlap: one for each service and container, and what is left. Pure.

A live cgroup's memory.stat includes all below it. So what a slice has beyond its children is its own: mostly
what ended ones left behind.
"""

from __future__ import annotations

from giveback_agent.cgroups import names
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.memcg_usage import MemcgUsage, add, at_most, without
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from giveback_agent.cgroups.names import Unit

ENDED = "ended"
OTHERS = "others"
ROWS_LIMIT = 20
NAME_LIMIT_CHARS = 48
PATH_LIMIT_CHARS = 100
# Of the host's line, which also holds meminfo and buddyinfo.
LINES_LIMIT_CHARS = 10 << 10


class CgroupRow(Record):
    """Memory of one unit. `kind`: service, container, slice (what it holds itself), cgroup, ended or others.

    `path` is the unit's cgroup, "" for a sum of several. `usage` is in bytes, and in no other row.
    """

    kind: str
    name: str
    path: str
    usage: MemcgUsage


class InnerCgroup(Record):
    """A cgroup that was split into its children.

    `rest`: what none of them has. `ended`: how many cgroups directly below it have ended and still hold
    pages; None where that is not known. `is_whole`: all its children were read.
    """

    rest: MemcgUsage
    ended: int | None = None
    is_whole: bool = True


class EndedPages(Record):
    """What an ended cgroup left: `anon_bytes` (shared memory is among it) and `file_bytes`."""

    path: str
    anon_bytes: int
    file_bytes: int


def unit_row(path: str, usage: MemcgUsage) -> CgroupRow:
    """Return the row of a live cgroup that is not split further."""
    unit = names.unit_of(path)
    if unit is not None:
        return CgroupRow(unit.kind, shown_name(unit), unit.path, usage)
    kind = names.SLICE if path.endswith(".slice") or path == "/" else names.CGROUP
    return CgroupRow(kind, names.folder_name(path), path, usage)


def shown_name(unit: Unit) -> str:
    """Return a unit's name, with its user where it is not the system's."""
    for part in unit.path.split("/"):
        if names.is_user_manager(part):
            return f"{unit.name} (user {part[len('user@') : -len('.service')]})"
    return unit.name


def joined(
    live: Iterable[CgroupRow],
    inner: Mapping[str, InnerCgroup],
    ended: Iterable[EndedPages] | None,
) -> list[CgroupRow]:
    """Return live rows, those of ended cgroups, and what split cgroups hold themselves.

    `ended` is what the kernel lists of ended cgroups, each by its path; None where it does not: then all
    that a slice has beyond its children, while some of them have ended, counts as theirs.
    """
    rows = list(live)
    rest = {path: one.rest for path, one in inner.items()}
    found = _by_path(ended, rows, rest) if ended is not None else _by_remainder(inner, rest)
    own = [
        CgroupRow(names.SLICE, names.folder_name(path), path, usage) for path, usage in rest.items()
    ]
    return [*rows, *found, *own]


def _by_path(
    ended: Iterable[EndedPages], rows: list[CgroupRow], rest: dict[str, MemcgUsage]
) -> list[CgroupRow]:
    """Take each ended cgroup's pages out of the row that they are counted in."""
    found: dict[str, CgroupRow] = {}
    places = {row.path: at for at, row in enumerate(rows)}
    for one in ended:
        wanted = MemcgUsage(one.anon_bytes, one.file_bytes, one.file_bytes, one.anon_bytes)
        taken = MemcgUsage()
        for path in _above(one.path):
            # A service that was started again has the path of the one that ended.
            if path in rest:
                part = _part_of(rest[path], _still(wanted, taken))
                rest[path] = without(rest[path], part)
            elif path in places and path != one.path:
                row = rows[places[path]]
                part = _part_of(row.usage, _still(wanted, taken))
                rows[places[path]] = replace(row, usage=without(row.usage, part))
            else:
                continue
            taken = add(taken, part)
        if taken.held_bytes:
            _sum_up(found, one.path, taken)
    return list(found.values())


def _above(path: str) -> list[str]:
    """Return the path and each above it, the deepest first, the root last."""
    parts = [part for part in path.split("/") if part]
    return ["/" + "/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _still(wanted: MemcgUsage, taken: MemcgUsage) -> MemcgUsage:
    """Return what is still to be found; the anonymous list holds shared memory, too."""
    anon = max(0, wanted.anon_bytes - taken.anon_bytes - taken.shared_bytes)
    cache = max(0, wanted.cache_bytes - taken.cache_bytes)
    return MemcgUsage(anon, cache, cache, anon)


def _part_of(held: MemcgUsage, wanted: MemcgUsage) -> MemcgUsage:
    part = at_most(held, wanted)
    shared = min(part.shared_bytes, wanted.anon_bytes - part.anon_bytes)
    return replace(part, shared_bytes=shared, cold_bytes=min(part.cold_bytes, part.cache_bytes))


def _sum_up(found: dict[str, CgroupRow], path: str, usage: MemcgUsage) -> None:
    unit = names.unit_of(path)
    where = path if unit is None else unit.path
    name = names.folder_name(path) if unit is None else shown_name(unit)
    before = found.get(where)
    usage = usage if before is None else add(before.usage, usage)
    found[where] = CgroupRow(ENDED, name, where, usage)


def _by_remainder(inner: Mapping[str, InnerCgroup], rest: dict[str, MemcgUsage]) -> list[CgroupRow]:
    found = []
    for path, one in inner.items():
        # The root cgroup has processes and files of its own: what is theirs cannot be told.
        if path != "/" and one.ended and one.is_whole:
            usage = replace(one.rest, kernel_bytes=0)
            rest[path] = MemcgUsage(kernel_bytes=one.rest.kernel_bytes)
            name = f"{one.ended} in {names.folder_name(path)}"
            found.append(CgroupRow(ENDED, name, path, usage))
    return found


def largest(
    rows: Iterable[CgroupRow], total: MemcgUsage, limit: int = ROWS_LIMIT
) -> tuple[CgroupRow, ...]:
    """Return at most `limit` rows, the largest first; the others are summed up in the last one or two.

    Together they are never more than `total`: what was read a moment apart may sum to more.
    """
    ranked = sorted(
        [row for row in rows if row.usage.held_bytes], key=lambda r: (-r.usage.held_bytes, r.path)
    )
    shown, left = [], total
    for row in ranked:
        usage = at_most(row.usage, left)
        usage = replace(usage, cold_bytes=min(usage.cold_bytes, usage.cache_bytes))
        left = without(left, usage)
        shown.append(replace(row, usage=usage))
    if len(shown) <= limit:
        return tuple(shown)
    head, tail = shown[: limit - 2], shown[limit - 2 :]
    sums = [
        _sum(OTHERS, [row for row in tail if row.kind != ENDED]),
        _sum(ENDED, [row for row in tail if row.kind == ENDED]),
    ]
    return (*head, *[row for row in sums if row.usage.held_bytes])


def _sum(kind: str, rows: list[CgroupRow]) -> CgroupRow:
    usage = MemcgUsage()
    for row in rows:
        usage = add(usage, row.usage)
    return CgroupRow(kind, f"{len(rows)} others", "", usage)


def as_lines(rows: Iterable[CgroupRow]) -> list[str]:
    """Return rows as the host reads them: kind, five amounts in bytes, name and path, between tabs.

    Strange names may make them too long for the line that they go into: then the smallest are left out.
    """
    lines: list[str] = []
    chars = 0
    for row in rows:
        amounts = [str(getattr(row.usage, name)) for name in MemcgUsage._fields]
        name = escape_for_terminal(row.name, NAME_LIMIT_CHARS)
        path = escape_for_terminal(row.path, PATH_LIMIT_CHARS)
        line = "\t".join([row.kind, *amounts, name, path])
        # A character outside of ASCII takes up to twelve in JSON.
        chars += sum([1 if " " <= c <= "~" else 12 for c in line])
        if chars > LINES_LIMIT_CHARS:
            break
        lines.append(line)
    return lines
