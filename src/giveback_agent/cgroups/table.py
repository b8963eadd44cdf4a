"""The rows of services and containers as text of 80 columns, and as a JSON document."""

from __future__ import annotations

from giveback_agent.cgroups import names, rows
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.memcg_usage import MemcgUsage
from giveback_kernel.record import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.cgroups.rows import CgroupRow
    from giveback_agent.cgroups.survey import Survey

MIB = 1 << 20
_NAME_CHARS = 43
_HEADINGS = ("anon", "cache", "cold", "shared", "kernel")


def lines(survey: Survey) -> list[str]:
    """Return a heading and one line for each row, in MiB. "cold" is part of "cache"."""
    if survey.why:
        return [f"services  not known: {escape_for_terminal(survey.why)}"]
    heading = f"services  {survey.cgroups}, in MiB"
    out = [f"{heading:<{_NAME_CHARS}}" + "".join([f"{word:>7}" for word in _HEADINGS])]
    out += [_line(row) for row in survey.rows]
    if not survey.is_whole:
        out.append("          some were not read for lack of time: their slice's row includes them")
    return out


def words(row: CgroupRow) -> str:
    """Return the name of a row."""
    name = escape_for_terminal(row.name, rows.NAME_LIMIT_CHARS)
    if row.kind == rows.ENDED:
        return f"left by ended {name}"
    return f"{name} itself" if row.kind == names.SLICE and row.path != "/" else name


def _line(row: CgroupRow) -> str:
    name = words(row)
    if len(name) > _NAME_CHARS - 3:
        name = name[: _NAME_CHARS - 4] + "…"
    amounts = [getattr(row.usage, field) // MIB for field in MemcgUsage._fields]
    return f"  {name:<{_NAME_CHARS - 2}}" + "".join([f"{amount or '-':>7}" for amount in amounts])


def document(survey: Survey) -> dict[str, object]:
    """Return the rows for `--json`. All amounts are in bytes."""
    return {
        "rows": [
            {"kind": row.kind, "name": row.name, "cgroup": row.path, **as_dict(row.usage)}
            for row in survey.rows
        ],
        "total": as_dict(survey.total),
        "count": survey.cgroups,
        "is_whole": survey.is_whole,
        "why": survey.why,
    }
