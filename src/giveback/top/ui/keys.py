"""Keys in their order: each is delivered when the one before has had its effect.

Textual gives a key to the widget that has the focus as the key arrives. What that key does (the filter is
submitted, a screen is pushed) is done some messages later, so a key typed at once after it went to the
widget that was about to lose the focus, and was lost.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from textual import events
from textual.app import App

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.message_pump import MessagePump
    from textual.timer import Timer

_MOST_WAITING = 256
"""Keys that wait; what is typed beyond them is dropped."""

_LONGEST_S = 1.0
"""A widget that has not handled its key by then does not hold up the next one."""


class OrderedKeysApp(App[int]):
    """An app in which what is typed fast is understood as what is typed slowly."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  # App's own
        super().__init__(**settings)
        self._waiting: deque[events.Key | events.Paste] = deque()
        self._underway = 0
        """The number of the key that has been delivered and may still have effects; 0: none."""
        self._delivered = 0
        self._limit: Timer | None = None

    async def on_event(self, event: events.Event) -> None:
        """Hold a key back while the one before is under way; all else at once."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(event)
        if not self._underway:
            await self._deliver_next()

    async def _deliver_next(self) -> None:
        if not self._waiting:
            return
        event = self._waiting.popleft()
        self._delivered += 1
        number = self._underway = self._delivered
        target: MessagePump = self.focused or self.screen
        self._limit = self.set_timer(_LONGEST_S, lambda: self._had_effect(number))
        await super().on_event(event)
        # First the key itself rises to the app, which runs what it is bound to; then what that posted does.
        self._settle(target, number, rounds=2)

    def _settle(self, target: MessagePump, number: int, rounds: int) -> None:
        """Go through all queues from the target's up to the app's, behind what is in them now."""
        if not self.is_running or not self.screen_stack:
            # The app is ending.
            return
        if not rounds:
            # A screen that was pushed meanwhile takes the focus once it has been mounted.
            self._follow(self.screen, lambda: self._follow(self, lambda: self._had_effect(number)))
            return
        again = partial(self._settle, target, number, rounds - 1)
        # What a handler posts stands in its own queue first, behind what is there already: hence two turns.
        self._follow(target, lambda: self._follow(target, lambda: self._rise(target, again)))

    def _rise(self, node: MessagePump, step: Callable[[], object]) -> None:
        parent = node._parent  # noqa: SLF001  # Widget.parent leaves the app out
        if node is self or parent is None:
            step()
        else:
            self._follow(parent, lambda: self._rise(parent, step))

    def _follow(self, node: MessagePump, step: Callable[[], object]) -> None:
        """Call `step` after all that is in the node's queue; at once in the app's if the node has ended."""
        if not node.call_later(step):
            self.call_later(step)

    async def _had_effect(self, number: int) -> None:
        if number != self._underway:
            return
        if self._limit is not None:
            self._limit.stop()
        self._underway, self._limit = 0, None
        await self._deliver_next()
