"""Notice that cgroups have ended, without a periodic wake-up.

The number of dying cgroups, in the root's cgroup.stat, rises when a cgroup ends and falls when its last
page is freed. Reading it costs one system call, but a wake-up costs a quiet guest ten times as much. So the
kernel is asked for a signal (dnotify, fcntl(2): F_NOTIFY) when a folder below a cgroup is removed. This is
requested for each cgroup with children, up to a limit. The count, which is also read at each sample, shows
those that the signals miss.
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from giveback_agent.runtime import signals
from giveback_kernel import cgroup, cgroup_stat, files
from giveback_kernel.errors import KernelFileError

# Without signals, the count is read this often.
PERIOD_S = 5.0
# The kernel takes down an ended cgroup a moment later; only then do its pages count as an ended one's.
SETTLE_S = 1.0
# The most watched folders, each with a descriptor, and the most entries read to find them.
WATCHED_LIMIT = 128
ENTRIES_LIMIT = 4096
# New cgroups are searched for children no more often than this.
SCAN_PERIOD_S = 30.0
# A folder without folders in it has two links, "." and its own name.
_LEAF_LINKS = 2
_READ_BYTES = 4096
_END_SIGNAL = bytes([signals.SIGIO])


class EndWatch:
    """A watch for ended cgroups. `poll` sets `rose` when some have ended; the caller resets it."""

    def __init__(self, root: str) -> None:
        self.rose = False
        self._count: int | None = None
        self._descendants = self._scanned = 0
        self._scan_s = 0.0
        self._text = b""
        self._fd = -1
        self._folder = ""
        self._watched: dict[str, int] = {}
        self._signals = False
        try:
            mount = cgroup.read_cgroup(root).v2_mount
            if mount is not None:
                self._folder = files.under(root, mount.rstrip("/") or "/")
                path = files.under(root, f"{mount.rstrip('/')}/{cgroup_stat.STAT}")
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (KernelFileError, OSError):
            # Without cgroup v2, pages of ended cgroups cannot be reclaimed by this agent.
            return
        self.poll()

    @property
    def needs_polling(self) -> bool:
        """Whether the count must be read every PERIOD_S, as the kernel sends no signals."""
        return self._fd >= 0 and not self._signals

    def poll(self) -> bool:
        """Read the count and return `rose`. Never raises."""
        if self._fd < 0:
            return False
        try:
            data = os.pread(self._fd, _READ_BYTES, 0)
            if data == self._text:
                return self.rose
            self._text = data
            stat = cgroup_stat.parse(data)
        except (OSError, KernelFileError):
            return self.rose
        if self._count is not None and stat.dying_descendants > self._count:
            self.rose = True
        self._count, self._descendants = stat.dying_descendants, stat.descendants
        return self.rose

    def wait(self, waited_for: list[int], wake_fd: int, period_s: float) -> None:
        """Wait until a descriptor is readable, a cgroup has ended, or `period_s` are over.

        `wake_fd` delivers the numbers of received signals. The signal of a cgroup that left no dying
        cgroup behind does not end the wait.
        """
        end_s = time.monotonic() + period_s
        while True:
            part_s = max(0.0, end_s - time.monotonic())
            if self.needs_polling:
                part_s = min(part_s, PERIOD_S)
            readable, _, _ = select.select(waited_for, [], [], part_s)
            known = self.rose
            is_new = self.poll() and not known
            came = os.read(wake_fd, 64) if wake_fd in readable else b""
            only_ends = len(readable) == 1 and bool(came) and not came.strip(_END_SIGNAL)
            if (readable and not only_ends) or is_new or time.monotonic() >= end_s:
                return

    def ask_for_signals(self, now_s: float) -> None:
        """Ask the kernel for SIGIO, which must be handled, when a cgroup below an existing one ends.

        Call it at each sample: it searches for new cgroups with children if there are more cgroups than
        at the last search. Never raises.
        """
        first = not self._scan_s
        if self._fd < 0 or not (first or self._descendants > self._scanned):
            return
        if not first and now_s - self._scan_s < SCAN_PERIOD_S:
            return
        self._scan_s, self._scanned = now_s, self._descendants
        for folder, fd in list(self._watched.items()):
            if _links(folder) <= _LEAF_LINKS:
                os.close(fd)
                del self._watched[folder]
        self._signals = self._scan()

    def _scan(self) -> bool:
        """Watch each cgroup that has children; return whether the root is among them."""
        left, waiting = ENTRIES_LIMIT, [self._folder]
        while waiting and left > 0 and len(self._watched) < WATCHED_LIMIT:
            folder = waiting.pop(0)
            if folder not in self._watched:
                fd = _ask(folder)
                if fd < 0:
                    continue
                self._watched[folder] = fd
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        left -= 1
                        if left <= 0:
                            break
                        if entry.is_dir(follow_symlinks=False) and _links(entry.path) > _LEAF_LINKS:
                            waiting.append(entry.path)
            except OSError:
                continue
        return self._folder in self._watched

    def close(self) -> None:
        """Close all files: the kernel then sends no more signals."""
        for fd in self._watched.values():
            os.close(fd)
        self._watched = {}
        self._signals = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _ask(folder: str) -> int:
    """Ask for a signal when an entry of `folder` is removed; return the descriptor for it, or -1."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_MULTISHOT)
    except OSError:
        os.close(fd)
        return -1
    return fd


def _links(folder: str) -> int:
    try:
        return os.lstat(folder).st_nlink
    except OSError:
        return 0
