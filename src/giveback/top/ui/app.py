"""The application: the host above, the table of VMs, one VM's numbers below, keys at the bottom.

It is thin: sources bring snapshots (`giveback.top.sources`), pure modules make lines of them, and this
module carries both to the terminal. One thread waits for snapshots; the loop never waits for a source.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding
from textual.events import Resize
from textual.geometry import Size
from textual.reactive import reactive
from textual.widgets import Input, Static

from giveback.reporters.tables.columns import cut
from giveback.top.bars import STYLES, legend
from giveback.top.lines import detail_lines, head, host_lines
from giveback.top.order import TopView, chosen, next_sort
from giveback.top.replay import Scrub, scrubber
from giveback.top.series import POINTS, LastValues
from giveback.top.series import STEP_S as SERIES_STEP_S
from giveback.top.sources.history import STEP_S
from giveback.top.status_text import explained, findings_of
from giveback.top.ui import help as help_text
from giveback.top.ui.background import in_background
from giveback.top.ui.dialogs import ReclaimScreen, TextScreen, words_of
from giveback.top.ui.keys import OrderedKeysApp
from giveback.top.ui.table import VmTable
from giveback_kernel.units import span

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from giveback.top.bars import Segments
    from giveback.top.model import TopSnapshot, TopVm
    from giveback.top.sources.base import Source
    from giveback.top.sources.history import HistoryReplay

RECENT_S = int(POINTS * SERIES_STEP_S)
_RETRY_S = 1.0
_STALE_TICK_S = 1.0
_NOTE_S = 8.0
_END_S = 5.0
# Textual draws there.
_STDERR = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEYS = "Enter explain  d doctor  r reclaim  t replay  s sort  / filter  ? help  q quit"


class TopApp(OrderedKeysApp):
    """`giveback top` in a terminal. Its result is 0, or 128 + the number of the signal that ended it."""

    TITLE = "giveback top"
    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("q,ctrl+c", "leave", "Quit", priority=False),
        Binding("question_mark,f1", "help", "Help"),
        Binding("d", "doctor", "Doctor"),
        Binding("r", "reclaim", "Reclaim"),
        Binding("t", "replay", "Replay"),
        Binding("s", "sort(1)", "Sort"),
        Binding("S", "sort(-1)", "Sort back"),
        Binding("o", "reverse", "Reverse"),
        # Before the keys that follow are given to the table: words may be typed already.
        Binding("slash", "filter", "Filter", priority=True),
        Binding("p", "pause", "Pause"),
        Binding("escape", "step_back", "Back"),
        Binding("left", "scrub(-1)", "Earlier"),
        Binding("right", "scrub(1)", "Later"),
        Binding("shift+left", "scrub(-10)", "Earlier"),
        Binding("shift+right", "scrub(10)", "Later"),
    ]

    view: reactive[TopView] = reactive(TopView(), init=False)
    scrub: reactive[Scrub | None] = reactive(None, init=False)
    """Where the replay is; None: live."""
    ends_process = False
    """Whether the process ends with it, some seconds after it was told to at the latest."""

    def __init__(
        self,
        source: Source,
        view: TopView,
        replay_of: Callable[[], HistoryReplay],
        *,
        begins_with_replay: bool = False,
    ) -> None:
        super().__init__()
        self._source, self._replay_of = source, replay_of
        self._begins_with_replay = begins_with_replay
        self._latest: TopSnapshot | None = None
        self._live: TopSnapshot | None = None
        """The latest one, unless it is held by a pause."""
        self._frame: TopSnapshot | None = None
        self._history: HistoryReplay | None = None
        self._series = LastValues()
        self._failure = ""
        self._failed_s = 0.0
        self._note = ""
        self._notes = 0
        self._is_beginning_replay = False
        self._is_paused = False
        self._is_reading_frame = False
        self.set_reactive(TopApp.view, view)

    def compose(self) -> ComposeResult:
        """Place the lines."""
        for name in ("host", "state", "legend", "head"):
            yield Static("", id=name, markup=False, classes="line")
        yield VmTable(lambda key: () if self.scrub else self._series.of(key))
        yield Static("", id="detail", markup=False)
        yield Input(placeholder="words; -word: without it", id="filter", max_length=200)
        yield Static(_KEYS, id="keys", markup=False, classes="line")

    def on_mount(self) -> None:
        """Follow signals, begin to wait for snapshots."""
        self.query_one(VmTable).focus()
        self.query_one("#filter", Input).display = False
        loop = asyncio.get_running_loop()
        # Not in the main thread, as in tests: then signals are somebody else's.
        with contextlib.suppress(RuntimeError, ValueError):
            for number in _SIGNALS:
                loop.add_signal_handler(number, self._end_by, number)
        self.set_interval(_STALE_TICK_S, self._tick)
        self._draw()
        self._ask()
        in_background(lambda: self._replay_of().recent(RECENT_S), self._take_recent)
        if self._begins_with_replay:
            self.action_replay()

    def _end_by(self, number: int) -> None:
        self._end_soon(128 + number)

    def _end_soon(self, code: int) -> None:
        if self.ends_process:
            # If the terminal is gone, Textual's writer has died of EIO, and its end waits for it forever.
            ends = threading.Timer(_END_S, os._exit, (code,))
            ends.daemon = True
            ends.start()
        self._source.close()
        self.exit(code)

    def on_unmount(self) -> None:
        """End the source."""
        self._source.close()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    # Snapshots.

    def _ask(self) -> None:
        in_background(self._source.next, self._take_next)

    def _take_recent(self, found: list[TopSnapshot] | Exception) -> None:
        """Begin the trends with what the history has; without one they begin now."""
        if not isinstance(found, Exception) and self.is_running:
            self._series.prefill(found, STEP_S)
            self._draw()

    def _take_next(self, found: TopSnapshot | Exception) -> None:
        if not self.is_running:
            return
        if isinstance(found, Exception):
            if not self._failure:
                self._failed_s = time.monotonic()
            self._failure = words_of(found)
            self.set_timer(_RETRY_S, self._ask)
            self._draw()
        else:
            self._failure = ""
            self.take(found)
            self._ask()

    def take(self, snapshot: TopSnapshot) -> None:
        """Show a snapshot, unless the table is held by a pause."""
        self._series.take(snapshot.vms, time.monotonic())
        self._latest = snapshot
        if not self._is_paused:
            self._live = snapshot
        self._draw()

    def _tick(self) -> None:
        if self._failure:
            self._draw_state()
        self._follow_terminal()

    def _follow_terminal(self) -> None:
        """Take the terminal's size, if the signal of its change was lost, as it was once in a test."""
        if self.is_headless:
            return
        with contextlib.suppress(OSError):
            size = Size(*os.get_terminal_size(_STDERR))
            if size != self.size:
                self.post_message(Resize(size, size))

    @property
    def shown(self) -> TopSnapshot | None:
        """Return the snapshot on the screen: the frame of a replay, or the last live one."""
        return self._frame if self.scrub is not None else self._live

    # Drawing.

    def watch_view(self) -> None:
        """Draw in the new order."""
        self._draw()

    def on_resize(self) -> None:
        """Draw for the new size."""
        self._draw()

    def _draw(self) -> None:
        if not self.is_running:
            return
        shown, width = self.shown, self.size.width
        table = self.query_one(VmTable)
        if shown is not None:
            first, second = host_lines(shown, width)
            self._put("host", first)
            self._put("state", second)
            is_stale = bool(self._failure) and self.scrub is None
            table.show(chosen(shown.vms, self.view), is_stale=is_stale)
        self._put("head", head(width, self.view))
        self.query_one("#keys", Static).update(cut(_KEYS, width).ljust(width))
        self._draw_state()

    def _draw_state(self) -> None:
        """Draw the line that says what is shown, and whether it is of now."""
        width, shown = self.size.width, self.shown
        if self.scrub is not None:
            self._put("legend", [(cut(scrubber(self.scrub, width), width), "warn")])
            return
        if self._failure:
            ago = span(time.monotonic() - self._failed_s)
            words = f"NOT LIVE for {ago}, trying again: {self._failure}"
            self._put("legend", [(cut(words, width), "bad")])
            return
        if self._note:
            self._put("legend", [(cut(self._note, width), "warn")])
            return
        if shown is None:
            self._put("legend", [(cut(f"asking: {self._source.label}", width), "dim")])
            return
        there = len(shown.vms)
        count = f"{there} VM" + ("" if there == 1 else "s") if there else "no VM runs on this host"
        if self.view.words:
            count = (
                f"{len(chosen(shown.vms, self.view))} of {count} by '{cut(self.view.words, 20)}'"
            )
        if self._is_paused:
            count = f"PAUSED  {count}"
        self._put(
            "legend",
            [*legend(), (cut(f"{count} · {self._source.label}", max(0, width - 60)), "dim")],
        )

    def _put(self, name: str, line: Segments) -> None:
        text = Text(no_wrap=True, overflow="crop", end="")
        for piece, style in line:
            text.append(piece, STYLES.get(style, ""))
        self.query_one(f"#{name}", Static).update(text)

    @on(VmTable.Moved)
    def show_detail(self) -> None:
        """Show the selected VM's numbers."""
        vm = self.query_one(VmTable).selected
        lines = [] if vm is None else detail_lines(vm, self.size.width)
        self.query_one("#detail", Static).update(Text("\n".join(lines), no_wrap=True, end=""))

    # One VM.

    @on(VmTable.Opened)
    def explain(self) -> None:
        """Show where every byte of the selected VM is."""
        vm = self.query_one(VmTable).selected
        if vm is None:
            return
        if self.scrub is not None:
            self.push_screen(TextScreen(f"{vm.name} then", lambda width: explained(vm, width)))
        else:
            self.push_screen(
                TextScreen(f"explain {vm.name}", lambda width: self._source.explain(vm, width))
            )

    def action_doctor(self) -> None:
        """Show why the selected VM's memory does not come back."""
        vm = self.query_one(VmTable).selected
        if vm is None:
            return
        if self.scrub is not None:
            self.push_screen(TextScreen(f"{vm.name} then", lambda _: findings_of(vm)))
        else:
            self.push_screen(TextScreen(f"doctor {vm.name}", lambda _: self._source.doctor(vm)))

    def action_reclaim(self) -> None:
        """Preview a reclaim; not of the past."""
        if self.scrub is not None:
            self._say("the past cannot be changed: t goes back to live")
            return
        vm: TopVm | None = self.query_one(VmTable).selected
        self.push_screen(ReclaimScreen(self._source, vm))

    def _say(self, words: str) -> None:
        """Show a note for some seconds, or until the next one."""
        self._note = words
        self._notes += 1
        number = self._notes
        self._draw_state()
        self.set_timer(_NOTE_S, lambda: self._say_no_more(number))

    def _say_no_more(self, number: int) -> None:
        if number == self._notes:
            self._note = ""
            self._draw_state()

    # Order, filter.

    def action_sort(self, steps: int) -> None:
        """Sort by the next column."""
        self.view = replace(self.view, sort=next_sort(self.view, steps), is_reversed=False)

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self.view = replace(self.view, is_reversed=not self.view.is_reversed)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave a slash to what is typed into: the filter itself, and dialogs."""
        if action == "filter":
            return len(self.screen_stack) == 1 and not self.query_one("#filter", Input).display
        return super().check_action(action, parameters)

    def action_filter(self) -> None:
        """Ask for the words that select."""
        box = self.query_one("#filter", Input)
        box.value, box.display = self.view.words, True
        self.screen.set_focus(box)

    @on(Input.Changed, "#filter")
    def filter_as_typed(self, event: Input.Changed) -> None:
        """Select while it is typed."""
        if event.input.display:
            self.view = replace(self.view, words=event.value)

    @on(Input.Submitted, "#filter")
    def end_filter(self) -> None:
        """Keep the words, and go back to the table."""
        self.query_one("#filter", Input).display = False
        self.query_one(VmTable).focus()

    def action_step_back(self) -> None:
        """Leave the filter, then the replay."""
        box = self.query_one("#filter", Input)
        if box.display or self.view.words:
            box.display = False
            self.view = replace(self.view, words="")
            self.query_one(VmTable).focus()
        elif self.scrub is not None:
            self.action_replay()

    def action_pause(self) -> None:
        """Hold the table as it is, or go on."""
        self._is_paused = not self._is_paused
        self._live = self._live if self._is_paused else self._latest
        self._draw()

    # Replay.

    def action_replay(self) -> None:
        """Begin the replay at the history's end, or leave it."""
        if self.scrub is not None:
            self.scrub, self._frame, self._history = None, None, None
            self._draw()
            return
        if self._is_beginning_replay:
            return
        self._is_beginning_replay = True
        self._say("reading the history …")
        in_background(self._begin_replay, self._take_replay)

    def _begin_replay(self) -> tuple[HistoryReplay, Scrub]:
        history = self._replay_of()
        return history, history.begin()

    def _take_replay(self, found: tuple[HistoryReplay, Scrub] | Exception) -> None:
        self._note, self._is_beginning_replay = "", False
        if isinstance(found, Exception):
            self._say(f"no replay: {words_of(found)}")
        elif not found[1].moments:
            self._say(
                "no replay: the history has nothing of this time yet; --since TIME goes further back"
            )
        else:
            self._history, self.scrub = found
            self._read_frame()

    def action_scrub(self, steps: int) -> None:
        """Go to another moment."""
        if self.scrub is not None:
            self.scrub = self.scrub.moved(steps)
            self._draw_state()
            self._read_frame()

    def _read_frame(self) -> None:
        """Read the frame of where the replay is: one at a time, the last one asked for always."""
        history, scrub = self._history, self.scrub
        if history is None or scrub is None or scrub.wall_s is None or self._is_reading_frame:
            return
        self._is_reading_frame, wall_s = True, scrub.wall_s

        def take(found: TopSnapshot | Exception) -> None:
            self._is_reading_frame = False
            if self.scrub is None or not self.is_running:
                return
            if isinstance(found, Exception):
                self.action_replay()
                self._say(f"the replay ended: {words_of(found)}")
                return
            self._frame = found
            self._draw()
            if self.scrub.wall_s != wall_s:
                self._read_frame()

        in_background(lambda: history.snapshot(wall_s), take)

    # The rest.

    def action_help(self) -> None:
        """Show the keys, and what the bar means."""
        self.push_screen(TextScreen("giveback top", lambda _: help_text.TEXT))

    def action_leave(self) -> None:
        """End."""
        self._end_soon(0)
