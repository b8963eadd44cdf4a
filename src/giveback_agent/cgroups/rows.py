"""The guest's memory as rows that do not overlap: one for each service and container, and the rest. Pure.

A live cgroup's memory.stat is recursive. So memory of a slice that its children do not have is its own:
mostly cache that ended children left behind.
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
# In a line to the host that also holds meminfo and buddyinfo.
LINES_LIMIT_CHARS = 10 << 10


class CgroupRow(Record):
    """The memory of one unit.

    `kind`: service, container, slice (without its children), cgroup, ended or others. `path` is the
    unit's cgroup, "" for a sum of several. `usage` is in bytes; no other row counts them.
    """

    kind: str
    name: str
    path: str
    usage: MemcgUsage


class InnerCgroup(Record):
    """A cgroup that was split into its children.

    `rest`: its memory without that of the children. `ended`: the number of cgroups directly below it that
    have ended and still hold pages; None if unknown. `is_whole`: all its children were read.
    """

    rest: MemcgUsage
    ended: int | None = None
    is_whole: bool = True


class EndedPages(Record):
    """Memory that an ended cgroup left: `anon_bytes` (including shared memory) and `file_bytes`."""

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
    """Return a unit's name, with its user unless it is a system unit."""
    for part in unit.path.split("/"):
        if names.is_user_manager(part):
            return f"{unit.name} (user {part[len('user@') : -len('.service')]})"
    return unit.name


def joined(
    live: Iterable[CgroupRow],
    inner: Mapping[str, InnerCgroup],
    ended: Iterable[EndedPages] | None,
) -> list[CgroupRow]:
    """Return the rows of live units, of ended cgroups, and of split cgroups without their children.

    `ended` is the kernel's list of ended cgroups by path. None: the kernel has no such list; then all
    memory of a slice with ended children that its live children do not have counts as theirs.
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
    """Move each ended cgroup's pages from the row that counts them to a row of their own."""
    found: dict[str, CgroupRow] = {}
    places = {row.path: at for at, row in enumerate(rows)}
    for one in ended:
        wanted = MemcgUsage(one.anon_bytes, one.file_bytes, one.file_bytes, one.anon_bytes)
        taken = MemcgUsage()
        for path in _above(one.path):
            # A restarted service has the path of the ended one.
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
    """Return the path and its ancestors, the deepest first, the root last."""
    parts = [part for part in path.split("/") if part]
    return ["/" + "/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _still(wanted: MemcgUsage, taken: MemcgUsage) -> MemcgUsage:
    """Return the memory that is still to be found; the anonymous list also holds shared memory."""
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
        # The root cgroup has processes and files of its own, whose memory cannot be separated.
        if path != "/" and one.ended and one.is_whole:
            usage = replace(one.rest, kernel_bytes=0)
            rest[path] = MemcgUsage(kernel_bytes=one.rest.kernel_bytes)
            name = f"{one.ended} in {names.folder_name(path)}"
            found.append(CgroupRow(ENDED, name, path, usage))
    return found


def largest(
    rows: Iterable[CgroupRow], total: MemcgUsage, limit: int = ROWS_LIMIT
) -> tuple[CgroupRow, ...]:
    """Return at most `limit` rows, the largest first; the last one or two sum up the others.

    The rows together never exceed `total`, although files read at different moments may add up to more.
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
    """Return rows as text for the host: kind, five amounts in bytes, name and path, separated by tabs.

    The smallest rows are left out if unusual names make the text too long for its line.
    """
    lines: list[str] = []
    chars = 0
    for row in rows:
        amounts = [str(getattr(row.usage, name)) for name in MemcgUsage._fields]
        name = escape_for_terminal(row.name, NAME_LIMIT_CHARS)
        path = escape_for_terminal(row.path, PATH_LIMIT_CHARS)
        line = "\t".join([row.kind, *amounts, name, path])
        # A character outside of ASCII takes up to 12 characters in JSON.
        chars += sum([1 if " " <= c <= "~" else 12 for c in line])
        if chars > LINES_LIMIT_CHARS:
            break
        lines.append(line)
    return lines
