"""Hogs: anonymous peaks in huge and in small pages, and a long-lived process that keeps parts of one."""

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
# A keeper keeps 16 KiB of each 512 KiB: the fragments that a long-lived process leaves of its peak.
STRIDE_BYTES = 512 << 10
KEPT_BYTES = 16 << 10
FOR_EVER_S = 1_000_000


class Hogs(Job):
    """Peaks that come and go; between two of them a process starts that stays."""

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the phases: huge pages, a process that stays, small pages, both at once."""
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
        # None of our pipes may stay open in it: the caller waits for the end of this program's
        # output.
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as keeper:  # fmt: skip
            assert keeper.stdout is not None  # noqa: S101  # piped above
            said = keeper.stdout.readline()
            # Not waited for: it must outlive the workload.
            keeper.returncode = 0
        if said != b"kept\n":
            raise OSError("hogs: the process that stays did not start")

    def _both(self) -> None:
        first = hold(self._pages(PEAK_PERCENT / 2 - 3), huge=True)
        second = hold(self._pages(PEAK_PERCENT / 2 - 3), huge=False)
        first.close()
        third = hold(self._pages(PEAK_PERCENT / 2 - 3), huge=False)
        second.close()
        third.close()


def keep(size_bytes: int) -> int:
    """Allocate a peak in small pages, free most of it, and keep the rest without end."""
    memory = hold(size_bytes, huge=False)
    for start in range(0, size_bytes, STRIDE_BYTES):
        length = min(STRIDE_BYTES, size_bytes - start) - KEPT_BYTES
        memory.madvise(_DONTNEED, start + KEPT_BYTES, length)
    sys.stdout.write("kept\n")
    sys.stdout.flush()
    time.sleep(FOR_EVER_S)
    return 0


_DONTNEED = 4
