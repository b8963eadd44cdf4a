"""The columns of `ps` and `status`: what each shows of a VM, how it is sorted and summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.reporters.tables.columns import fitted, short, width_of, wrapped
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")

_NAME_CELLS = 32
_CONDITION_CELLS = 30
_VERDICT_CELLS = 20
"""Of the last column, this much stands before a column of numbers has to go."""
_CHOSEN_LIMIT = 40
BAR = "█ used ▒ free held"


@dataclass(frozen=True, slots=True)
class VmRow:
    """One VM as a table shows it; None is unknown, and "" is empty."""

    key: str
    name: str
    pid: int
    backend: str
    ram_bytes: int | None
    resident_bytes: int | None
    at_most_bytes: int | None = None
    """What the whole VMM holds, where resident RAM cannot be told from the rest."""
    in_use_bytes: int | None = None
    cache_bytes: int | None = None
    residue_bytes: int | None = None
    trapped_bytes: int | None = None
    returnable_bytes: int | None = None
    returned_bytes: int | None = None
    own_bytes: int | None = None
    charged_bytes: int | None = None
    owner: str | None = None
    host_percent: float | None = None
    cpu_percent: float | None = None
    uptime_s: float | None = None
    swap_bytes: int | None = None
    swap_in_bytes_per_s: float | None = None
    swap_out_bytes_per_s: float | None = None
    reporting: str = ""
    guest: str = ""
    bar: str = ""
    urgency: int | None = None
    condition: str = ""
    last: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its value for a VM, as a number or as text."""

    head: str
    value: Callable[[VmRow], float | str | None]
    write: Callable[[float], str] | None = None
    """How its numbers are written; None: its values are text."""
    is_summed: bool = False
    legend: str = ""
    name: str = ""
    """Its name on a command line, if it differs from the head."""
    unknown: Callable[[VmRow], str] = lambda _row: "?"
    """The text for an unknown value."""

    @property
    def word(self) -> str:
        """Its name on a command line."""
        return self.name or self.head.lower().replace(" ", "-")

    def cell(self, row: VmRow) -> str:
        """Return the text of the column for one VM."""
        value = self.value(row)
        if value is None:
            return self.unknown(row)
        if isinstance(value, str):
            return value
        return (self.write or str)(value)

    def total(self, rows: Sequence[VmRow]) -> str:
        """Return the sum of the known values; `?` if none is known."""
        if not self.is_summed or self.write is None:
            return ""
        known = [value for row in rows if isinstance(value := self.value(row), int | float)]
        return self.write(sum(known)) if known else "?"


@dataclass(frozen=True, slots=True)
class TableView:
    """The operator's choice: columns in their order, and the one that sorts."""

    columns: tuple[Column, ...] = ()
    """() are all, as far as they fit."""
    sorted_by: Column | None = None
    """None: by what is free but still held, the most first."""
    is_reversed: bool = False


def _size(value: float) -> str:
    return size(int(value))


def _rate(value: float) -> str:
    return f"{size(int(value))}/s"


def _percent(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def _whole(value: float) -> str:
    return str(int(value))


def _at_most(row: VmRow) -> str:
    """Return what the VMM holds in total, if resident RAM cannot be separated from the rest."""
    return "?" if row.at_most_bytes is None else f"≤{size(row.at_most_bytes)}"


_SWAP_LEGEND = "SWAP IN, SWAP OUT: change of what is swapped, since the sample before"

NAME = Column("NAME", lambda row: short(row.name, _NAME_CELLS))
PID = Column("PID", lambda row: row.pid, _whole)
OWNER = Column("OWNER", lambda row: None if row.owner is None else short(row.owner, 16))
VMM = Column("VMM", lambda row: row.backend)
RAM = Column("RAM", lambda row: row.ram_bytes, _size, is_summed=True)
RESIDENT = Column(
    "RESIDENT", lambda row: row.resident_bytes, _size, is_summed=True, unknown=_at_most
)  # fmt: skip
HOST = Column(
    "% HOST", lambda row: row.host_percent, _percent, is_summed=True,
    legend="% HOST: RESIDENT of the host's RAM", name="host",
)  # fmt: skip
IN_USE = Column("IN USE", lambda row: row.in_use_bytes, _size, is_summed=True)
CACHE = Column("CACHE", lambda row: row.cache_bytes, _size, is_summed=True)
FREE_HELD = Column(
    "FREE HELD", lambda row: row.residue_bytes, _size, is_summed=True,
    legend="FREE HELD: free in the guest, still resident here",
)  # fmt: skip
SMALL_BLOCKS = Column(
    "SMALL BLOCKS", lambda row: row.trapped_bytes, _size, is_summed=True,
    legend="SMALL BLOCKS: of FREE HELD, what is too small to be reported",
)  # fmt: skip
RETURNABLE = Column(
    "RETURNABLE", lambda row: row.returnable_bytes, _size, is_summed=True,
    legend="RETURNABLE: FREE HELD, and cache beyond what an agent keeps",
)  # fmt: skip
RETURNED = Column(
    "RETURNED", lambda row: row.returned_bytes, _size, is_summed=True,
    legend="RETURNED: held once, and no more",
)  # fmt: skip
VMM_OWN = Column(
    "VMM OWN", lambda row: row.own_bytes, _size, is_summed=True,
    legend="VMM OWN: the VMM's own memory and page tables",
)  # fmt: skip
CHARGED = Column(
    "CHARGED", lambda row: row.charged_bytes, _size, is_summed=True,
    legend="CHARGED: all that the VM costs the host",
)  # fmt: skip
CPU = Column(
    "CPU %", lambda row: row.cpu_percent, _percent, is_summed=True,
    legend="CPU %: of one CPU, since the sample before, else since its start", name="cpu",
)  # fmt: skip
UPTIME = Column("UPTIME", lambda row: row.uptime_s, span)
SWAPPED = Column(
    "SWAPPED", lambda row: row.swap_bytes, _size, is_summed=True,
    legend="SWAPPED: of the VMM, its guest's RAM included",
)  # fmt: skip
SWAP_IN = Column(
    "SWAP IN", lambda row: row.swap_in_bytes_per_s, _rate, is_summed=True,
    legend=_SWAP_LEGEND,
)  # fmt: skip
SWAP_OUT = Column(
    "SWAP OUT", lambda row: row.swap_out_bytes_per_s, _rate, is_summed=True,
    legend=_SWAP_LEGEND,
)  # fmt: skip
REPORTING = Column("REPORTING", lambda row: row.reporting)
GUEST = Column("GUEST", lambda row: row.guest)
BAR_COLUMN = Column(BAR, lambda row: row.bar, name="bar")
URGENCY = Column("URGENCY", lambda row: row.urgency, _whole, unknown=lambda _row: "-")
CONDITION = Column("CONDITION", lambda row: escape_for_terminal(row.condition, _CONDITION_CELLS))
LAST = Column("LAST", lambda row: row.last)

_AMOUNTS = (
    RAM, RESIDENT, HOST, IN_USE, CACHE, FREE_HELD, SMALL_BLOCKS, RETURNABLE, RETURNED, VMM_OWN, CHARGED,
)  # fmt: skip
_USE = (CPU, UPTIME, SWAPPED, SWAP_IN, SWAP_OUT)
PS = (NAME, PID, OWNER, VMM, *_AMOUNTS, *_USE, REPORTING, GUEST, BAR_COLUMN)
STATUS = (NAME, PID, OWNER, VMM, *_AMOUNTS, *_USE, URGENCY, CONDITION, LAST)
_LEAST_NEEDED = (
    SWAP_IN, SWAP_OUT, SMALL_BLOCKS, SWAPPED, VMM_OWN, VMM, UPTIME, CHARGED, OWNER, GUEST,
    BAR_COLUMN, RETURNABLE, CPU, HOST, RETURNED, REPORTING, PID, CACHE, RAM, IN_USE,
    URGENCY, LAST,
)  # fmt: skip


def parse_columns(text: str, known: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns of `name,resident,…` in that order. Raises InputError that lists all names."""
    words = [word.strip() for word in text.split(",")]
    found = [_called(word, known, "--columns") for word in words[:_CHOSEN_LIMIT]]
    return tuple(dict.fromkeys(found))


def parse_sort(text: str, known: Sequence[Column]) -> tuple[Column, bool]:
    """Return the column of `resident` or `-resident`, and whether it is reversed. Raises InputError."""
    is_reversed = text.startswith("-")
    return _called(text.removeprefix("-"), known, "--sort"), is_reversed


def _called(word: str, known: Sequence[Column], option: str) -> Column:
    wanted = word.strip().lower().replace(" ", "-").replace("_", "-")
    for column in known:
        if wanted in (column.word, column.head.lower().replace(" ", "-")):
            return column
    names = ", ".join(column.word for column in known)
    raise InputError(
        f"{option}: there is no column {escape_for_terminal(word, 40)!r}; there are: {names}"
    )


def in_order(items: Iterable[Item], row_of: Callable[[Item], VmRow], view: TableView) -> list[Item]:
    """Return the items as the view sorts them: numbers from the largest, text from A, unknown last."""
    column = view.sorted_by or FREE_HELD
    pairs = sorted(
        ((row_of(item), item) for item in items), key=lambda pair: (pair[0].name, pair[0].pid)
    )
    known = [(value, item) for row, item in pairs if (value := column.value(row)) not in (None, "")]
    unknown = [item for row, item in pairs if column.value(row) in (None, "")]
    from_large = (column.write is not None) != view.is_reversed

    def rank(pair: tuple[float | str | None, Item]) -> tuple[float, str]:
        value = pair[0]
        return (0.0, value.lower()) if isinstance(value, str) else (value or 0.0, "")

    return [item for _, item in sorted(known, key=rank, reverse=from_large)] + unknown


def table(
    rows: Sequence[VmRow], columns: Sequence[Column], view: TableView, width: int
) -> list[str]:
    """Return the lines of a table and its legend, none wider than `width`.

    If columns were chosen, all of them are shown, and lines are cut. With several VMs the last row
    has sums.
    """
    shown = list(view.columns or columns)
    cells = [[column.cell(row) for column in shown] for row in rows]
    label = next((at for at, column in enumerate(shown) if not column.is_summed), None)
    if len(rows) > 1 and label is not None and any(column.is_summed for column in shown):
        total = [column.total(rows) for column in shown]
        total[label] = "total"
        cells.append(total)
    head = [column.head for column in shown]
    right = {column.head for column in shown if column.write is not None}
    least_needed = () if view.columns else [column.head for column in _LEAST_NEEDED]
    last_cells = _VERDICT_CELLS if shown[-1] is LAST else width
    lines = fitted(head, cells, right, width, least_needed, last_cells)
    return lines + _legend(shown, lines[0], lines, width)


def _legend(columns: Sequence[Column], head: str, lines: Sequence[str], width: int) -> list[str]:
    """Explain the columns that are shown; the one for free but still held memory comes first."""
    named = sorted(
        (column for column in columns if column.legend and column.head in head),
        key=lambda column: column is not FREE_HELD,
    )
    words = list(dict.fromkeys(column.legend for column in named))
    if any(" ? " in f" {line} " for line in lines):
        words.append("?: not known")
    legend = "; ".join(words)
    return wrapped(legend, width) if width_of(legend) else []
