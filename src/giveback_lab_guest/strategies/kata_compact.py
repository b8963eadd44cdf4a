"""mem-agent's compact core. Our re-implementation; the rule is pure.

Each period it does nothing if memory and io stalled for more than 1 % of the period. Otherwise it
compacts if MemFree fell by more than the threshold since the last compaction. It also compacts if
the free movable pages below the report order exceed those it left behind by more than the
threshold. Compaction itself is a child process that is killed at 5 % of stalls or after 300 s.

Source: kata-containers 7c6ba40, src/libs/mem-agent/src/compact.rs.
"""

from __future__ import annotations

import os
import time

from giveback_kernel import files
from giveback_kernel.compaction import PATH
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.pagetypeinfo import PageTypeInfo, read_pagetypeinfo
from giveback_kernel.record import Record
from giveback_lab_guest.strategies.kata_psi import Psi
from giveback_lab_guest.strategies.loop import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_lab_guest.strategies.loop import Stopping

PAGE_BYTES = 4096
SIGKILL = 9


class KataCompactRule(Record):
    """The constants, under Kata's own names."""

    period_secs: int = 600
    period_psi_percent_limit: int = 1
    compact_psi_percent_limit: int = 5
    compact_sec_max: int = 300
    compact_order: int = 9
    compact_threshold: int = 1024


class KataCompactState(Record):
    """The free bytes and movable pages after the last compaction; 0 before the first."""

    free_bytes: int = 0
    movable_pages: int = 0


def is_due(
    rule: KataCompactRule,
    state: KataCompactState,
    psi_percent: int,
    free_bytes: int,
    movable_pages: int,
) -> bool:
    """Return whether to compact now."""
    if psi_percent > rule.period_psi_percent_limit:
        return False
    if state.free_bytes > free_bytes + rule.compact_threshold * PAGE_BYTES:
        return True
    return movable_pages > rule.compact_threshold + state.movable_pages


def movable_pages(info: PageTypeInfo, order: int) -> int:
    """Count the free movable pages in blocks below `order`."""
    lists = [blocks.counts[:order] for blocks in info.free if blocks.migrate_type == "Movable"]
    return sum([count << at for counts in lists for at, count in enumerate(counts)])


class KataCompactCore:
    """The rule with its state, on this guest."""

    def __init__(self, root: str, rule: KataCompactRule) -> None:
        self._root, self._rule, self._state = root, rule, KataCompactState()
        self._psi = Psi(root, "/", children=True)

    def work(self, stopping: Stopping) -> None:
        """Do one period's work. Raises KernelFileError."""
        percent = self._psi.read_percent()
        now = self._look()
        if not is_due(self._rule, self._state, percent, now.free_bytes, now.movable_pages):
            return
        say(f"compact: {now.movable_pages * PAGE_BYTES >> 20} MiB are movable and in small blocks")
        self._compact(stopping)
        self._state = self._look()

    def _look(self) -> KataCompactState:
        info = read_pagetypeinfo(self._root)
        pages = 0 if info is None else movable_pages(info, self._rule.compact_order)
        return KataCompactState(read_meminfo(self._root).mem_free_bytes, pages)

    def _compact(self, stopping: Stopping) -> None:
        psi = Psi(self._root, "/", children=True)
        end_s = time.monotonic() + self._rule.compact_sec_max
        path = files.under(self._root, PATH)
        child = os.posix_spawn("/bin/sh", ["sh", "-c", f"echo 1 > {path}"], os.environ)
        told = False
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            stalled = psi.read_percent() > self._rule.compact_psi_percent_limit
            if told or stalled or time.monotonic() > end_s:
                say("compaction was stopped")
                os.kill(child, SIGKILL)
                os.waitpid(child, 0)
                return
            told = stopping.wait(1.0)
