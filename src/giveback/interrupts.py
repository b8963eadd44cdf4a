"""Ctrl-C and SIGTERM end a command in order: everything it opened is closed first."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from giveback.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from types import FrameType

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping() -> Iterator[None]:
    """Raise Interrupted at the current place in the block when a signal arrives.

    Further signals are ignored during the clean-up. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name, number)

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end. A signal cancels it once; Interrupted is raised when it has cleaned up.

    The signals' handlers are then as they were before.
    """
    # Takes 30 ms to import, which `giveback --help` need not pay.
    import asyncio  # noqa: PLC0415

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return asyncio.run(_guarded(work))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _guarded(work: Coroutine[Any, Any, T]) -> T:
    import asyncio  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    caught: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not caught:
            caught.append(number)
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        raise Interrupted(caught[0].name, caught[0].value) from None
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
