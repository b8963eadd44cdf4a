"""Run what takes long beside the terminal's loop, in threads that no end of the process waits for."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def in_background(work: Callable[[], Result], done: Callable[[Result | Exception], None]) -> None:
    """Call `work` in a thread of its own, and `done` on this loop with its result or its exception.

    A loop that has ended by then is told nothing.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()

    def run() -> None:
        try:
            result: Result | Exception = work()
        except Exception as error:  # noqa: BLE001  # `done` shows it
            result = error
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(done, result, context=context)

    threading.Thread(target=run, daemon=True).start()
