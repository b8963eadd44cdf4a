"""Notice that cgroups have ended: one read of the root's cgroup.stat, from a file that stays open.

The kernel tells nobody of a cgroup's end but whoever watches that cgroup. The number of dying ones costs a
system call. It rises with each end, and falls when their last page has gone.
"""

from __future__ import annotations

import os

from giveback_kernel import cgroup, cgroup_stat, files
from giveback_kernel.errors import KernelFileError

# Each wake-up costs a quiet guest CPU: one between two samples of it, which are 10 s apart.
PERIOD_S = 5.0
_READ_BYTES = 4096


class EndWatch:
    """`rose` is set by `poll` when cgroups have ended, until whoever looks after it resets it."""

    def __init__(self, root: str) -> None:
        self.rose = False
        self._count: int | None = None
        self._text = b""
        self._fd = -1
        try:
            mount = cgroup.read_cgroup(root).v2_mount
            if mount is not None:
                path = files.under(root, f"{mount.rstrip('/')}/{cgroup_stat.STAT}")
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (KernelFileError, OSError):
            # No cgroup v2: no cgroup's pages outlive it in a way that could be undone.
            return
        self.poll()

    @property
    def is_on(self) -> bool:
        """Whether there is anything to poll."""
        return self._fd >= 0

    def poll(self) -> bool:
        """Read the count; returns `rose`. Never raises."""
        if self._fd < 0:
            return False
        try:
            data = os.pread(self._fd, _READ_BYTES, 0)
            if data == self._text:
                return self.rose
            self._text = data
            count = cgroup_stat.parse(data).dying_descendants
        except (OSError, KernelFileError):
            return self.rose
        if self._count is not None and count > self._count:
            self.rose = True
        self._count = count
        return self.rose

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
