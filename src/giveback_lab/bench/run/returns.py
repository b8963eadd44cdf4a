"""Which guest RAM the host provides, gets back, and provides again: pages of the VM's RAM mapping.

The RAM is a memfd. When the guest returns a page, QEMU punches a hole into the memfd, and the
guest's next access to that page is a page fault on the host. So a page that is in the mapping's
page table at one scan and was not at the scan before is one fault. QEMU's own faults, which min_flt
of /proc/PID/stat counts too, are not included. A page that leaves and returns between two scans is
not seen: the counts are lower bounds. Source: /proc/PID/pagemap,
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from giveback.errors import VmError
from giveback.host.pagemap import PAGE_BYTES, PRESENT, read_states
from giveback.host.smaps import parse_maps
from giveback_kernel.errors import KernelFileError
from giveback_kernel.files import read
from giveback_lab.bench.model import MemoryFlow
from giveback_lab.vms.vm import RAM_MAPPING

if TYPE_CHECKING:
    from giveback_lab.vms.vm import LabVm

SCAN_PERIOD_S = 2.0
REGRET_S = 60.0
"""A page touched again within this many seconds of its return should not have been returned."""
MAPS_LIMIT_BYTES = 4 << 20
_NEVER_S = -1e9

Present = npt.NDArray[np.bool_]


class ReturnCounts:
    """Count the pages that were faulted in, returned, and soon faulted in again; pure but for its arrays."""

    def __init__(self, regret_s: float = REGRET_S) -> None:
        self._regret_s = regret_s
        self._before: Present | None = None
        self._returned_at_s = np.zeros(0, dtype=np.float32)
        self._faulted_pages = self._returned_pages = self._regret_pages = 0

    def shift(self, by_s: float) -> None:
        """Account for a zero of time that was moved by `by_s`."""
        self._returned_at_s -= np.float32(by_s)

    def update(self, t_s: float, present: Present) -> MemoryFlow:
        """Add a scan of all pages at `t_s`; return the sums since the first scan."""
        if self._before is None:
            self._returned_at_s = np.full(present.size, _NEVER_S, dtype=np.float32)
        else:
            came = present & ~self._before
            went = self._before & ~present
            self._faulted_pages += int(np.count_nonzero(came))
            self._returned_pages += int(np.count_nonzero(went))
            soon = self._returned_at_s[came] >= t_s - self._regret_s
            self._regret_pages += int(np.count_nonzero(soon))
            self._returned_at_s[went] = t_s
        self._before = present
        return MemoryFlow(
            t_s=round(t_s, 3),
            faulted_bytes=self._faulted_pages * PAGE_BYTES,
            returned_bytes=self._returned_pages * PAGE_BYTES,
            regret_bytes=self._regret_pages * PAGE_BYTES,
        )


class ReturnScanner:
    """Scan one VM's RAM. The mapping is looked up once, because QEMU never moves it."""

    def __init__(self, vm: LabVm) -> None:
        self._vm = vm
        self._range: tuple[int, int] | None = None

    def scan(self) -> Present:
        """Return for each page of the guest's RAM whether it is in host memory. Raises VmError."""
        if self._range is None:
            self._range = ram_range(self._vm.pid)
        return np.asarray(read_states(self._vm.pid, *self._range) == PRESENT)


def ram_range(pid: int, root: str = "/") -> tuple[int, int]:
    """Return the begin and end address of a lab VM's RAM. Raises VmError if it has none."""
    try:
        text = read(root, f"/proc/{pid}/maps", MAPS_LIMIT_BYTES)
    except KernelFileError as error:
        raise VmError(str(error)) from error
    ram = [one for one in parse_maps(text) if one.name.removesuffix(" (deleted)") == RAM_MAPPING]
    if not ram:
        raise VmError(f"process {pid} maps no guest RAM called {RAM_MAPPING}")
    return min(one.start for one in ram), max(one.end for one in ram)
