"""Kata Containers' mem-agent: one loop for its two cores, alone or together.

Source: kata-containers 7c6ba40, src/libs/mem-agent/src/agent.rs: timers only, no idle detection.
"""

from __future__ import annotations

import time

from giveback_kernel.errors import KernelFileError
from giveback_lab_guest.strategies import kata_compact, kata_memcg
from giveback_lab_guest.strategies.loop import STARTED, say, with_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from giveback_lab_guest.strategies.loop import Stopping

    KataCore = Union[kata_compact.KataCompactCore, kata_memcg.KataMemcgCore]

# A core that failed is tried again after this many seconds.
RETRY_S = 300.0


class KataTimed:
    """A core and the time of its next run."""

    def __init__(self, core: KataCore, period_s: float, now_s: float) -> None:
        self._core, self._period_s = core, period_s
        self.next_s = now_s + period_s

    def work(self, stopping: Stopping) -> None:
        """Run the core if it is due; a failure is logged, and the core is tried again later."""
        if time.monotonic() < self.next_s:
            return
        wait_s = self._period_s
        try:
            self._core.work(stopping)
        except KernelFileError as error:
            say(str(error))
            wait_s = min(RETRY_S, self._period_s)
        self.next_s = time.monotonic() + wait_s


def serve(root: str, name: str, options: list[str], stopping: Stopping) -> None:
    """Run until told to stop. Raises KernelFileError if this kernel lacks what a core needs."""
    cores = make(root, name, options)
    say(STARTED)
    while not stopping.wait_until(min(core.next_s for core in cores)):
        for core in cores:
            core.work(stopping)


def make(root: str, name: str, options: list[str]) -> list[KataTimed]:
    """Return the cores that the strategy's name stands for. Raises KernelFileError and ValueError."""
    now_s = time.monotonic()
    cores = []
    if name in ("kata-compact", "kata-both"):
        compact = with_options(
            kata_compact.KataCompactRule(), _known(options, kata_compact.KataCompactRule._fields)
        )
        cores.append(
            KataTimed(kata_compact.KataCompactCore(root, compact), compact.period_secs, now_s)
        )
    if name in ("kata-memcg", "kata-both"):
        memcg = with_options(
            kata_memcg.KataMemcgRule(), _known(options, kata_memcg.KataMemcgRule._fields)
        )
        cores.append(KataTimed(kata_memcg.KataMemcgCore(root, memcg), memcg.period_secs, now_s))
    return cores


def _known(options: list[str], fields: tuple[str, ...]) -> list[str]:
    """Return the options that a core has. Raises ValueError for one that no core has."""
    known = (*kata_compact.KataCompactRule._fields, *kata_memcg.KataMemcgRule._fields)
    for option in options:
        if option.partition("=")[0] not in known:
            raise ValueError(f"no constant {option!r}: there are {', '.join(dict.fromkeys(known))}")
    return [option for option in options if option.partition("=")[0] in fields]
