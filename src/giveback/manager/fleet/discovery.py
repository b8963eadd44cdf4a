"""Find VMs that start, and notice when they end.

Listing /proc costs a millisecond; command lines are read of new processes only. A process that calls
exec keeps its PID. So a new process is read at several scans, and later now and then. A pidfd shows
that a VM has ended, at once and reliably: by the next scan another process may have its PID.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.host.owners import read_uid
from giveback.host.procs import start_ticks
from giveback.host.readers.pool import shared
from giveback.vmm.base import key_of
from giveback.vmm.find import recognise, recognised
from giveback_kernel.files import under

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from giveback.vmm.base import Backend, VmDescription

_READS_OF_NEW = 3
_AGAIN_EVERY = 30
"""Scans between two reads of a process that is not a VM: exec may have made it one."""


@dataclass(frozen=True, slots=True)
class Found:
    """A VM that is new. The caller closes `pidfd`; it is -1 if the kernel has no pidfds."""

    key: str
    backend: Backend
    vm: VmDescription
    start_ticks: int
    pidfd: int
    uid: int | None = None
    """The user of the process; None if unknown."""


class Finder:
    """Finds new VMs under `root`; remembers which processes it has read."""

    def __init__(
        self,
        root: str = "/",
        known: Sequence[Backend] | None = None,
    ) -> None:
        self._root = root
        self._readers = shared()
        self._backends = None if known is None else tuple(known)
        """Backends that exist in this process only, so that no reader process can use them."""
        self._reads: dict[int, int] = {}
        self._scans = 0

    async def scan(self, is_known: Callable[[int], bool]) -> Iterator[Found]:
        """Return the running VMs whose PIDs are not known yet. Raises VmError if nothing can be read.

        The iterator opens each pidfd as it is reached. A caller that closes the unwanted ones at once
        needs descriptors only for those that it keeps.
        """
        self._scans += 1
        pids = self._pids()
        self._reads = {pid: reads for pid, reads in self._reads.items() if pid in pids}
        self._readers.keep(pids)
        wanted = []
        for pid in sorted(pids):
            if is_known(pid):
                continue
            reads = self._reads.get(pid, 0)
            if reads >= _READS_OF_NEW and (pid + self._scans) % _AGAIN_EVERY:
                continue
            self._reads[pid] = reads + 1
            wanted.append(pid)
        found = (self._taken(*one) for one in await self._recognised(wanted))
        return (one for one in found if one is not None)

    @property
    def present(self) -> AbstractSet[int]:
        """The PIDs that were read and still existed at the last scan."""
        return self._reads.keys()

    def forget(self, pid: int) -> None:
        """Forget a process that has ended: the next one with its PID is new."""
        self._reads.pop(pid, None)
        self._readers.forget(pid)

    def _pids(self) -> set[int]:
        try:
            with os.scandir(under(self._root, "/proc")) as entries:
                return {int(entry.name) for entry in entries if entry.name.isdigit()}
        except OSError:
            return set()

    async def _recognised(self, wanted: Sequence[int]) -> list[tuple[Backend, VmDescription]]:
        if not wanted:
            return []
        if self._backends is None:
            answers = await recognised(self._readers, wanted, self._root)
            return [one for one in answers if isinstance(one, tuple)]
        found = (recognise(self._root, pid, self._backends) for pid in wanted)
        return [one for one in found if one is not None]

    def _taken(self, backend: Backend, vm: VmDescription) -> Found | None:
        try:
            pidfd = os.pidfd_open(vm.pid)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return None
            pidfd = -1
        ticks = start_ticks(self._root, vm.pid)
        if ticks is None:
            if pidfd >= 0:
                os.close(pidfd)
            return None
        return Found(key_of(vm), backend, vm, ticks, pidfd, read_uid(self._root, vm.pid))


def has_ended(root: str, pid: int, ticks: int) -> bool:
    """Return whether the process has ended, also if another has its PID now; for kernels without pidfds."""
    return start_ticks(root, pid) != ticks
