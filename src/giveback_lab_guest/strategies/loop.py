"""Shared parts of the strategies' loops: waiting until told to stop, a line per action, options."""

from __future__ import annotations

import os
import sys
import time

from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIG_BLOCK, SIGINT, SIGTERM, pthread_sigmask, sigtimedwait
    from typing import TypeVar

    _R = TypeVar("_R", bound=Record)
else:
    # Without `signal`'s enums: they cost 0.6 MiB.
    from _signal import SIG_BLOCK, SIGINT, SIGTERM, pthread_sigmask, sigtimedwait

STARTED = "started"
_began_s = time.monotonic()


class Stopping:
    """SIGTERM and SIGINT as something to wait for: no handler, and no extra wake-ups."""

    def __init__(self) -> None:
        self._told = False
        pthread_sigmask(SIG_BLOCK, (SIGTERM, SIGINT))

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; return True once told to stop."""
        if not self._told:
            self._told = sigtimedwait((SIGTERM, SIGINT), max(0.0, seconds)) is not None
        return self._told

    def wait_until(self, monotonic_s: float) -> bool:
        """Wait until the monotonic clock shows this; return True once told to stop."""
        return self.wait(monotonic_s - time.monotonic())


def say(text: str) -> None:
    """Print one line with the seconds since the start; a closed output is ignored."""
    try:
        sys.stdout.write(f"{time.monotonic() - _began_s:.1f} s: {text}\n")
        sys.stdout.flush()
    except OSError:
        pass


def with_options(rule: _R, words: list[str]) -> _R:
    """Return the rule with `key=value` constants replaced. Raises ValueError for an unknown one."""
    for word in words:
        key, _, text = word.partition("=")
        if key not in rule._fields:
            raise ValueError(f"no constant {key!r}: there are {', '.join(rule._fields)}")
        kind = type(getattr(rule, key))
        if kind not in (int, float):
            raise ValueError(f"{key} cannot be changed")
        rule = replace(rule, **{key: kind(text)})
    return rule


def become_idle_class() -> None:
    """Switch to SCHED_IDLE, for strategies whose original does: it runs only on otherwise idle CPUs."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
