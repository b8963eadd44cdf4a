"""VMs as they come and go: new processes are looked at, known ones are watched by the kernel.

A listing of /proc costs a millisecond; a command line is read of new processes only. A process that
execs keeps its PID, so a new one is looked at a few times, and each now and then again. That a VM
has ended is told by its pidfd, at once and for certain: a PID may be another's by the next scan.
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

_LOOKS_AT_NEW = 3
_AGAIN_EVERY = 30
"""Scans between two looks at a process that is no VM: it may have become one by exec."""


@dataclass(frozen=True, slots=True)
class Found:
    """A VM that was not known. `pidfd` is -1 where the kernel has none: the caller closes it."""

    key: str
    backend: Backend
    vm: VmDescription
    start_ticks: int
    pidfd: int
    uid: int | None = None
    """The user whose process it is; None where that is not told."""


class Finder:
    """Looks for new VMs under `root`; remembers which processes it has looked at."""

    def __init__(
        self,
        root: str = "/",
        known: Sequence[Backend] | None = None,
    ) -> None:
        self._root = root
        self._readers = shared()
        self._backends = None if known is None else tuple(known)
        """Backends that are not asked in a reader process, because only this one has them."""
        self._looks: dict[int, int] = {}
        self._scans = 0

    async def scan(self, is_known: Callable[[int], bool]) -> Iterator[Found]:
        """VMs that run now and are not known yet by their PID. Raises VmError where nothing can be read.

        Each is opened when it is taken: who takes them one by one, and closes those that it does not
        want, needs no more descriptors than for those that it keeps.
        """
        self._scans += 1
        pids = self._pids()
        self._looks = {pid: looks for pid, looks in self._looks.items() if pid in pids}
        self._readers.keep(pids)
        wanted = []
        for pid in sorted(pids):
            if is_known(pid):
                continue
            looks = self._looks.get(pid, 0)
            if looks >= _LOOKS_AT_NEW and (pid + self._scans) % _AGAIN_EVERY:
                continue
            self._looks[pid] = looks + 1
            wanted.append(pid)
        found = (self._taken(*one) for one in await self._recognised(wanted))
        return (one for one in found if one is not None)

    @property
    def present(self) -> AbstractSet[int]:
        """Processes that ran at the last scan, of those that were looked at."""
        return self._looks.keys()

    def forget(self, pid: int) -> None:
        """The process has ended: whoever has its PID next is new."""
        self._looks.pop(pid, None)
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
    """Whether the process has gone, for kernels without pidfd: its PID may be another's now."""
    return start_ticks(root, pid) != ticks
