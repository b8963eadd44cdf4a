"""What lies over the table: texts (explain, doctor, help), and the reclaim with its preview."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from giveback.arguments import size_with_unit_of
from giveback.errors import InputError
from giveback.manager.http.requests import GOAL_LEAST_BYTES, GOAL_MOST_BYTES
from giveback.top.ui.background import in_background
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import MIB, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from giveback.top.model import ReclaimPlan, TopVm
    from giveback.top.sources.base import Source

_UNEXPECTED = "an error of giveback's own; please report it"


def words_of(error: Exception) -> str:
    """Return an error in words that are safe to show, whatever it is."""
    text = str(error) if isinstance(error, GivebackError) else f"{_UNEXPECTED}: {error!r}"
    return escape_for_terminal(text, 600)


class TextScreen(ModalScreen[None]):
    """A text that may take seconds to be made, and scrolls."""

    BINDINGS = [  # noqa: RUF012
        Binding("escape,q,enter", "dismiss_screen", "Close"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
    ]

    def __init__(self, title: str, make: Callable[[int], str]) -> None:
        super().__init__()
        self._title, self._make = title, make

    def compose(self) -> ComposeResult:
        """Show the title, the text, and how to leave."""
        with Vertical(classes="dialog"):
            yield Static(self._title, classes="title", markup=False)
            with VerticalScroll(id="scroll"):
                yield Static("asking …", id="text", markup=False)
            yield Static("Esc closes · ↑ ↓ scroll", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Begin to make the text."""
        self.query_one("#scroll").focus()
        width = max(20, self.app.size.width * 96 // 100 - 6)
        in_background(lambda: self._make(width), self._show)

    def _show(self, text: str | Exception) -> None:
        if self.is_attached:
            shown = words_of(text) if isinstance(text, Exception) else text
            self.query_one("#text", Static).update(shown)

    def action_scroll(self, lines: int) -> None:
        """Scroll the text."""
        self.query_one("#scroll").scroll_relative(y=lines, animate=False)

    def action_dismiss_screen(self) -> None:
        """Close."""
        self.dismiss()


class ReclaimScreen(ModalScreen[str]):
    """How much, from which VMs; what would come from where at what cost; then, confirmed, what came."""

    BINDINGS = [  # noqa: RUF012
        Binding("escape", "leave", "Close"),
        Binding("ctrl+a", "scope", "All or one"),
        Binding("tab", "scope", "All or one", show=False, priority=True),
    ]

    def __init__(self, source: Source, vm: TopVm | None) -> None:
        super().__init__()
        self._source, self._vm = source, vm
        self._is_one = vm is not None
        self._planned: tuple[int, tuple[str, ...]] | None = None
        self._typed: tuple[str, bool] | None = None
        self._is_running = False
        self._asked = 0

    def compose(self) -> ComposeResult:
        """Show the size, the scope, and the plan below."""
        start = self._vm.returnable_bytes if self._vm is not None else None
        value = f"{max(1, (start or 0) // MIB)}M" if start else "512M"
        with Vertical(classes="dialog"):
            yield Static("Reclaim", classes="title", markup=False)
            yield Static("", id="scope", markup=False)
            yield Input(
                value=value, id="size", placeholder="how much, such as 512M or 4G", max_length=20
            )
            with VerticalScroll(id="scroll"):
                yield Static("", id="plan", markup=False)
            yield Static("", id="hint", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Ask for a plan of the proposed size at once."""
        self.query_one("#size", Input).focus()
        self._plan()

    @property
    def _keys(self) -> tuple[str, ...]:
        return (self._vm.key,) if self._is_one and self._vm is not None else ()

    def _plan(self) -> None:
        """Show the scope, and ask the daemon for its dry run, once for what is typed."""
        typed = (self.query_one("#size", Input).value, self._is_one)
        if typed == self._typed:
            return
        self._typed, self._planned = typed, None
        scope = f"from {self._vm.name}" if self._is_one and self._vm else "from all VMs"
        other = " (Tab: all VMs)" if self._is_one else " (Tab: the selected VM)" if self._vm else ""
        self.query_one("#scope", Static).update(scope + other)
        self._asked += 1
        try:
            goal_bytes = size_with_unit_of(
                typed[0].strip(), "size", GOAL_LEAST_BYTES, GOAL_MOST_BYTES
            )
        except InputError as error:
            self._show_plan(words_of(error), "Esc leaves")
            return
        self._show_plan("asking the daemon what would come …", "Esc leaves")
        number, keys = self._asked, self._keys
        in_background(
            lambda: self._source.plan(goal_bytes, keys),
            lambda plan: self._take_plan(number, goal_bytes, keys, plan),
        )

    def _take_plan(
        self, number: int, goal_bytes: int, keys: tuple[str, ...], plan: ReclaimPlan | Exception
    ) -> None:
        # An answer to what was typed before is not what a confirmation would be about.
        if number != self._asked or not self.is_attached or self._is_running:
            return
        if isinstance(plan, Exception):
            self._show_plan(words_of(plan), "Esc leaves")
        elif not plan.most_bytes:
            self._show_plan(plan.text, "nothing can be asked · Esc leaves")
        else:
            self._planned = goal_bytes, keys
            self._show_plan(plan.text, f"Enter reclaims {size(goal_bytes)} now · Esc leaves")

    def _show_plan(self, text: str, hint: str) -> None:
        self.query_one("#plan", Static).update(text)
        self.query_one("#hint", Static).update(hint)

    @on(Input.Changed, "#size")
    def plan_again(self) -> None:
        """Plan for the size as typed."""
        if not self._is_running:
            self._plan()

    @on(Input.Submitted, "#size")
    def confirm(self) -> None:
        """Reclaim what the shown plan is about; nothing without one."""
        if self._planned is None or self._is_running:
            return
        self._is_running = True
        self.query_one("#size", Input).disabled = True
        goal_bytes, keys = self._planned
        self._show_plan(f"reclaiming {size(goal_bytes)} …", "Esc leaves; the reclaim goes on")
        in_background(lambda: self._source.reclaim(goal_bytes, keys), self._take_result)

    def _take_result(self, result: ReclaimPlan | Exception) -> None:
        text = words_of(result) if isinstance(result, Exception) else result.text
        if self.is_attached:
            self._show_plan(text, "Esc closes")

    def action_scope(self) -> None:
        """Change between the selected VM and all."""
        if self._vm is not None and not self._is_running:
            self._is_one = not self._is_one
            self._plan()

    def action_leave(self) -> None:
        """Close."""
        self.dismiss("")
