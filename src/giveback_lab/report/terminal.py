"""The live chart in a terminal: both VMs' resident memory on one time axis.

giveback is an area of blocks, the plain VM a line of dots, so they differ without colour, too.
`draw_chart` is pure. `LiveChart` shows it, or prints a line periodically without a terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from giveback.reporters.charts.terminal import ASCII_BLOCKS, BLOCKS, Raster, area, dotted_line
from giveback_kernel.escaping import escape_for_terminal
from giveback_lab.report.layout import (
    GIVEBACK_COLOUR,
    PLAIN_COLOUR,
    LabelSpan,
    byte_ticks,
    pack,
    phases,
    run_actions,
    span,
    time_ticks,
    work_end_s,
)
from giveback_lab.report.run import MARK_KINDS
from giveback_lab.report.series import resident_at
from giveback_lab.report.words import KIND_WORDS, mib_text, ram_text, setting_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from giveback_lab.report.layout import ChartAction
    from giveback_lab.report.run import DemoRun, MarkKind, VmRun

GUTTER = 9
LEAST_WIDTH = 36
LEAST_HEIGHT = 9
MOST_WIDTH = 160
ROWS_FOR_NAMES = 14
ROWS_FOR_LANES = 28
ROWS_FOR_SETTING = 20
LINE_EVERY_S = 5.0

_DIM = "dim"
_PLAIN, _GIVEBACK = PLAIN_COLOUR, GIVEBACK_COLOUR
# A tint of the plain VM's colour, light enough to be visible on giveback's.
_PLAIN_ON_AREA = "#FFB98A"


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """The characters of a chart: one set for Unicode and one for ASCII."""

    area: str
    symbols: dict[MarkKind, str]
    line: str
    grid: str
    side: str
    floor: str
    corner: str
    tick: str
    end: str
    times: str


_RICH = _Glyphs(
    area=BLOCKS,
    symbols={"reclaim": "▼", "compact": "■", "report": "●", "deep": "◆", "restore": "▲"},
    line="⠒⠒",
    grid="┈",
    side="│",
    floor="─",
    corner="└",
    tick="┴",
    end="┊",
    times="×",  # noqa: RUF001
)
_ASCII = _Glyphs(
    area=ASCII_BLOCKS,
    symbols={"reclaim": "v", "compact": "#", "report": "o", "deep": "*", "restore": "^"},
    line="++",
    grid=" ",
    side="|",
    floor="-",
    corner="+",
    tick="+",
    end=":",
    times="x",
)


def draw_chart(run: DemoRun, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """Return the chart in at most `height` rows of `width` cells; only the numbers if that is small.

    Rows from the top: the numbers, the phases' names, the plot, its axis, the agent's actions.
    """
    glyphs = _ASCII if ascii_only else _RICH
    width = min(width, MOST_WIDTH)
    numbers = _numbers(run, width, glyphs)
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return numbers[: max(0, height)]
    return [*numbers, *_Chart(run, width, height - len(numbers), glyphs).rows()]


class _Chart:
    """One drawing of a run: a plot with the rows above and below it."""

    def __init__(self, run: DemoRun, width: int, height: int, glyphs: _Glyphs) -> None:
        self._run = run
        self._glyphs = glyphs
        self._width = width - GUTTER - 1
        self._gap_s = 2.0
        self._actions = run_actions(run, self._gap_s)
        self._kinds = [k for k in MARK_KINDS if any(a.kind == k for a in self._actions)]
        self._lanes = height >= ROWS_FOR_LANES
        self._top = 1 if height >= ROWS_FOR_NAMES else 0
        below = 2 + (len(self._kinds) if self._lanes else 2 * bool(self._kinds))
        self._height = height - self._top - below
        self._raster = Raster(width, height)
        self._span: LabelSpan = span(run, most_byte_ticks=max(2, self._height // 3))

    def rows(self) -> list[Text]:
        """Return all rows from the top."""
        self._axes()
        for vm in self._run.vms:
            if vm.name == "giveback":
                self._area(vm)
        for vm in self._run.vms:
            if vm.name == "plain":
                self._line(vm)
        if self._top:
            self._names()
        if self._lanes:
            self._action_lanes()
        else:
            self._action_row()
        return [Text.assemble(*row, no_wrap=True) for row in self._raster.rows()]

    def _column(self, t_s: float) -> int:
        return min(self._width - 1, max(0, int(self._span.x(t_s) * self._width)))

    def _moment_s(self, column: float) -> float:
        whole = self._span
        return whole.start_s + (whole.end_s - whole.start_s) * column / self._width

    def _axes(self) -> None:
        glyphs, floor = self._glyphs, self._top + self._height
        for row in range(self._top, floor):
            self._raster.put(row, GUTTER, glyphs.side, _DIM)
        self._raster.put(floor, GUTTER, glyphs.corner + glyphs.floor * self._width, _DIM)
        for size_bytes in byte_ticks(self._span):
            row = floor - round(self._span.y(size_bytes) * self._height)
            self._raster.put(
                row, 0, (ram_text(size_bytes) if size_bytes else "0").rjust(GUTTER - 1)
            )
            if row < floor:
                self._raster.put(row, GUTTER + 1, glyphs.grid * self._width, _DIM)
        end_s = work_end_s(self._run)
        for row in range(self._top, floor) if end_s is not None else ():
            self._raster.put(row, GUTTER + 1 + self._column(end_s or 0.0), glyphs.end)
        self._time_ticks(floor)

    def _time_ticks(self, floor: int) -> None:
        ticks = time_ticks(self._span.start_s, self._span.end_s, max(1, self._width // 10))
        labels = [f"{t_s} s" if t_s == 0 else str(t_s) for t_s in ticks]
        wanted = [
            (self._column(t_s) + 0.5, float(len(label)))
            for t_s, label in zip(ticks, labels, strict=True)
        ]
        for (t_s, label), spot in zip(
            zip(ticks, labels, strict=True), pack(wanted, self._width, 1, 1), strict=True
        ):
            self._raster.put(floor, GUTTER + 1 + self._column(t_s), self._glyphs.tick, _DIM)
            if spot:
                self._raster.put(floor + 1, GUTTER + 1 + int(spot[1]), label)

    def _area(self, vm: VmRun) -> None:
        drawn = self._drawn_columns(vm)
        values = [resident_at(vm.samples, self._moment_s(column + 0.5)) for column in drawn]
        rows = area(values, self._span.top_bytes, self._height, self._glyphs.area)
        self._raster.lay(self._top, GUTTER + 1 + drawn.start, rows, _GIVEBACK)

    def _line(self, vm: VmRun) -> None:
        halves = {
            2 * column + half: resident_at(vm.samples, self._moment_s(column + 0.25 + half / 2))
            for column in self._drawn_columns(vm)
            for half in range(2)
        }
        # A cell has one foreground: where the area fills half of it, the dots are drawn on the
        # area's colour.
        half_full = len(self._glyphs.area) // 2 + 1
        cells = dotted_line(halves, self._span.top_bytes, self._height)
        for (row, column), dots in cells.items():
            place = (self._top + row, GUTTER + 1 + column)
            covered = self._raster.get(*place) in self._glyphs.area[-half_full:]
            style = f"{_PLAIN_ON_AREA} on {_GIVEBACK}" if covered else _PLAIN
            shown = self._glyphs.line[0] if self._glyphs is _ASCII else dots
            self._raster.put(*place, shown, style)

    def _drawn_columns(self, vm: VmRun) -> range:
        if not vm.samples:
            return range(0)
        return range(self._column(vm.samples[0].t_s), self._column(vm.samples[-1].t_s) + 1)

    def _names(self) -> None:
        """Add the phases' names while there is room: the workload's end and the latest phase first."""
        end_s, whole = work_end_s(self._run), self._span
        told = [(p.start_s, p.end_s or p.start_s, p.name) for p in phases(self._run, whole.end_s)]
        named = [] if end_s is None else [(end_s, "work ends")]
        if whole.start_s < 0:
            named.append((whole.start_s / 2, "boot"))
        longest = sorted(told, key=lambda part: part[0] - part[1])
        named += [((a + b) / 2, _ascii(name)) for a, b, name in (*told[-1:], *longest)]
        named = list(dict.fromkeys(named))
        wanted = [(self._column(t_s) + 0.5, float(len(name))) for t_s, name in named]
        for (_, name), spot in zip(named, pack(wanted, self._width, 1, 1), strict=True):
            if spot:
                style = "bold" if name == "work ends" else _DIM
                self._raster.put(0, GUTTER + 1 + int(spot[1]), name, style)

    def _action_row(self) -> None:
        """Add all actions in one row, and a legend row for the marks."""
        row = self._top + self._height + 2
        if self._kinds:
            self._raster.put(row, 0, "agent".rjust(GUTTER - 1))
        for action in self._actions:
            self._marks(row, action)
        self._key(row + 1)

    def _key(self, row: int) -> None:
        entries = []
        for words in (KIND_WORDS, {kind: str(kind) for kind in MARK_KINDS}):
            entries = [self._key_entry(kind, words) for kind in self._kinds]
            if sum(len(entry) + 5 for entry in entries) <= self._width:
                break
        column = GUTTER + 1
        for kind, entry in zip(self._kinds, entries, strict=True):
            self._raster.put(row, column, self._glyphs.symbols[kind], _GIVEBACK)
            self._raster.put(row, column + 2, entry)
            column += len(entry) + 5

    def _key_entry(self, kind: MarkKind, words: dict[MarkKind, str]) -> str:
        count = sum(action.count for action in self._actions if action.kind == kind)
        return f"{words[kind]} {self._glyphs.times}{count}" if count > 1 else words[kind]

    def _action_lanes(self) -> None:
        """Add a row for each kind of action, with the agent's labels where there is room."""
        for lane, kind in enumerate(self._kinds):
            row = self._top + self._height + 2 + lane
            self._raster.put(row, 0, kind.rjust(GUTTER - 1))
            mine = [action for action in self._actions if action.kind == kind]
            for action in mine:
                self._marks(row, action)
            for action, after in zip(mine, [*mine[1:], None], strict=True):
                column = self._column(action.end_s) + 2
                limit = self._width if after is None else self._column(after.start_s) - 1
                count = f"{action.count} {self._glyphs.times} " if action.count > 1 else ""
                text = count + _ascii(action.label)
                if action.label and column + len(text) <= limit:
                    self._raster.put(row, GUTTER + 1 + column, text, _DIM)

    def _marks(self, row: int, action: ChartAction) -> None:
        for column in range(self._column(action.start_s), self._column(action.end_s) + 1):
            symbol = self._glyphs.symbols[action.kind]
            self._raster.put(row, GUTTER + 1 + column, symbol, _GIVEBACK)


def _numbers(run: DemoRun, width: int, glyphs: _Glyphs) -> list[Text]:
    """Return what each VM holds, with a piece of its curve: in one row, or one row each."""
    for with_peak in (True, False):
        entries = [_entry(vm, glyphs, with_peak=with_peak) for vm in run.vms]
        line = Text("  ", no_wrap=True).append_text(Text("    ").join(entries))
        if line.cell_len <= width:
            return [line]
    for entry in entries:
        entry.truncate(width)
    return entries


def _entry(vm: VmRun, glyphs: _Glyphs, *, with_peak: bool) -> Text:
    now = vm.samples[-1].resident_bytes if vm.samples else None
    peak = max((sample.resident_bytes for sample in vm.samples), default=None)
    swatch = glyphs.line if vm.name == "plain" else glyphs.area[-1] * 2
    entry = Text(no_wrap=True).append(swatch, _PLAIN if vm.name == "plain" else _GIVEBACK)
    entry.append(f" {vm.name} {mib_text(now)}", "bold")
    return entry.append(f", peak {mib_text(peak)}") if with_peak else entry


def _ascii(text: str, most_chars: int = 40) -> str:
    """Return guest text as ASCII, in which each character is one cell wide."""
    return escape_for_terminal(text, most_chars, "...").encode("ascii", "replace").decode("ascii")


def status_line(run: DemoRun, status: str) -> str:
    """Return the time, what each VM holds, and the current activity as one plain line."""
    now_s = _now_s(run)
    parts = [] if now_s is None else [f"{now_s:5.0f} s"]
    parts += [
        f"{vm.name} {mib_text(vm.samples[-1].resident_bytes):>8}" for vm in run.vms if vm.samples
    ]
    return "  ".join((*parts, _ascii(status, 200))).rstrip()


def _now_s(run: DemoRun) -> float | None:
    return max((vm.samples[-1].t_s for vm in run.vms if vm.samples), default=None)


class _Frame:
    """The latest state, drawn for the terminal's size at the moment of drawing."""

    def __init__(self, run: DemoRun, status: str) -> None:
        self._run = run
        self._status = status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # One row stays free: a frame as high as the terminal would scroll it.
        width, height = options.max_width, console.size.height - 2
        lines = []
        if height >= ROWS_FOR_SETTING:
            setting = Text(f"  {_ascii(setting_text(self._run), 200)}", _DIM, no_wrap=True)
            setting.truncate(width)
            lines.append(setting)
        ascii_only = options.ascii_only
        lines += draw_chart(self._run, width, height - len(lines), ascii_only=ascii_only)
        now_s = _now_s(self._run)
        moment = "" if now_s is None else f"{now_s:.0f} s  "
        status = Text(f"  {moment}", no_wrap=True).append(_ascii(self._status, 200), "bold")
        status.truncate(width, overflow="ellipsis" if not ascii_only else "crop")
        yield Group(*lines, status)


class LiveChart:
    """Show a run while it happens; the last frame stays on the screen.

    Without a capable terminal it prints `status_line` every `LINE_EVERY_S` of the run, and whenever
    the status changes, so that even short phases are reported.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._told: tuple[int | None, str] = (None, "")
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, run: DemoRun, status: str) -> None:
        """Show the run so far; `status` is the current activity and may hold guest text."""
        if self._live is not None:
            self._live.update(_Frame(run, status), refresh=True)
            return
        now_s = _now_s(run)
        told = (None if now_s is None else int(now_s // LINE_EVERY_S), status)
        if told != self._told:
            self._told = told
            line = Text(status_line(run, status))
            self._console.print(line, soft_wrap=True, highlight=False)
