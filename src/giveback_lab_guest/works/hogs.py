"""Hogs: anonymous peaks in huge and in small pages, and what a long-lived process keeps of one."""

from __future__ import annotations

import subprocess
import sys
import time

from giveback_kernel.units import MIB
from giveback_lab_guest.works.demo import hold
from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PEAK_PERCENT = 55
KEEPER_PERCENT = 40
# Of each 512 KiB a keeper keeps 16: what a process that lives on makes of its peak.
STRIDE_BYTES = 512 << 10
KEPT_BYTES = 16 << 10
FOR_EVER_S = 1_000_000


class Hogs(Job):
    """Peaks that come and go; between two of them a process starts that stays."""

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Huge pages, a process that stays, small pages, both at once."""
        return [
            ("huge pages", lambda: self._peak(PEAK_PERCENT, huge=True)),
            ("keeper", self._keeper),
            ("small pages", lambda: self._peak(PEAK_PERCENT - 5, huge=False)),
            ("both", self._both),
        ]

    def _peak(self, share: float, *, huge: bool) -> None:
        hold(self._pages(share), huge=huge).close()

    def _pages(self, share: float) -> int:
        return self.percent(share) // MIB * MIB

    def _keeper(self) -> None:
        words = [sys.executable, sys.argv[0], "bench", "keep", str(self._pages(KEEPER_PERCENT))]
        # None of ours may stay open in it: who waits for the work waits for its output's end.
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as keeper:  # fmt: skip
            assert keeper.stdout is not None  # noqa: S101  # piped above
            said = keeper.stdout.readline()
            # Not waited for: it is to outlive the work.
            keeper.returncode = 0
        if said != b"kept\n":
            raise OSError("hogs: the process that stays did not come up")

    def _both(self) -> None:
        first = hold(self._pages(PEAK_PERCENT / 2 - 3), huge=True)
        second = hold(self._pages(PEAK_PERCENT / 2 - 3), huge=False)
        first.close()
        third = hold(self._pages(PEAK_PERCENT / 2 - 3), huge=False)
        second.close()
        third.close()


def keep(size_bytes: int) -> int:
    """Take a peak in small pages, let go of most of it, and stay with the rest."""
    memory = hold(size_bytes, huge=False)
    for start in range(0, size_bytes, STRIDE_BYTES):
        length = min(STRIDE_BYTES, size_bytes - start) - KEPT_BYTES
        memory.madvise(_DONTNEED, start + KEPT_BYTES, length)
    sys.stdout.write("kept\n")
    sys.stdout.flush()
    time.sleep(FOR_EVER_S)
    return 0


_DONTNEED = 4
