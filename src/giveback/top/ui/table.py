"""The table of VMs: one line each, drawn only where it is visible (Textual's line API)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from giveback.top.bars import GLYPHS, STYLES
from giveback.top.lines import vm_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual import events

    from giveback.top.bars import Segments
    from giveback.top.model import TopVm

_RICH = {name: Style.parse(text) for name, text in STYLES.items()} | {
    "": Style(),
    "cursor": Style(reverse=True),
}
_STALE = Style(dim=True)


def strip_of(line: Segments, *, extra: Style | None = None) -> Strip:
    """Return a line of the pure modules as Textual draws it."""
    return Strip(
        [
            Segment(text, _RICH[style] if extra is None else _RICH[style] + extra)
            for text, style in line
        ]
    )


class VmTable(ScrollView, can_focus=True):
    """All VMs in the chosen order, with a cursor that stays on its VM while the order changes."""

    BINDINGS = [  # noqa: RUF012  # Textual's own form
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
        Binding("enter", "open", "Explain", show=False),
    ]

    class Moved(Message):
        """The cursor is on another VM, or on another state of it."""

    class Opened(Message):
        """Enter was pressed on the VM under the cursor."""

    def __init__(self, values_of: Callable[[str], Sequence[float | None]]) -> None:
        super().__init__(id="vms")
        self._values_of = values_of
        self._vms: tuple[TopVm, ...] = ()
        self._key = ""
        self.cursor = 0
        self.is_stale = False

    @property
    def selected(self) -> TopVm | None:
        """Return the VM under the cursor."""
        return self._vms[self.cursor] if self.cursor < len(self._vms) else None

    def show(self, vms: tuple[TopVm, ...], *, is_stale: bool = False) -> None:
        """Show these VMs, in this order. `is_stale`: dimmed, as nothing new is known of them."""
        self._vms, self.is_stale = vms, is_stale
        at = next((at for at, vm in enumerate(vms) if vm.key == self._key), None)
        # A VM that is gone leaves the cursor on its line: the next one moved up there.
        moved = at is not None and at != self.cursor
        self.cursor = min(self.cursor, max(0, len(vms) - 1)) if at is None else at
        self._remember()
        if self.virtual_size.height != len(vms) or self.virtual_size.width != self.size.width:
            self.virtual_size = Size(self.size.width, len(vms))
        if moved:
            self._follow()
        self.refresh()
        self.post_message(self.Moved())

    def _remember(self) -> None:
        selected = self.selected
        self._key = "" if selected is None else selected.key

    def _follow(self) -> None:
        self.scroll_to_region(
            Region(0, self.cursor, max(1, self.size.width), 1), animate=False, force=True
        )

    def move_to(self, line: int) -> None:
        """Put the cursor on a line, within the table."""
        self.cursor = max(0, min(len(self._vms) - 1, line))
        self._remember()
        self._follow()
        self.refresh()
        self.post_message(self.Moved())

    def action_move(self, lines: int) -> None:
        """Move the cursor."""
        self.move_to(self.cursor + lines)

    def action_page(self, pages: int) -> None:
        """Move the cursor by what is visible."""
        self.move_to(self.cursor + pages * max(1, self.size.height - 1))

    def action_open(self) -> None:
        """Say that the VM under the cursor is to be explained."""
        if self.selected is not None:
            self.post_message(self.Opened())

    def on_click(self, event: events.Click) -> None:
        """Select the line under the mouse; explain it if that was a double click."""
        self.move_to(int(event.y + self.scroll_offset.y))
        if event.chain > 1:
            self.action_open()

    def on_resize(self, event: events.Resize) -> None:
        """Draw for the new width."""
        self.virtual_size = Size(event.size.width, len(self._vms))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return one visible line."""
        width, at = self.size.width, int(y + self.scroll_offset.y)
        if at >= len(self._vms):
            return Strip.blank(width, self.rich_style)
        vm = self._vms[at]
        line = vm_line(vm, self._values_of(vm.key), width)
        if at == self.cursor:
            # Reversed as a whole, a bar would be its own negative: only what is not of the bar is marked.
            bare = [(text, style if style in GLYPHS else "cursor") for text, style in line]
            return strip_of(bare).adjust_cell_length(width).apply_style(self.rich_style)
        extra = _STALE if self.is_stale else None
        return strip_of(line, extra=extra).adjust_cell_length(width).apply_style(self.rich_style)
