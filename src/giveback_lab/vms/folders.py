"""A VM's own folder: its sockets, logs and work disk, gone when its giveback is.

A giveback that was SIGKILLed cannot clean up. Its folder's lock is then free, by which the next one
knows it (a process id would lie across containers that share a temporary folder) and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from giveback.errors import InputError

PREFIX = "giveback-vm-"
LOCK = ".lock"
# sockaddr_un.sun_path is 108 bytes with its end; the longest name in a VM's folder is this.
SOCKET_PATH_LIMIT = 107
LONGEST_SOCKET = "agent.sock"


def candidates() -> tuple[Path, ...]:
    """Where VM folders may be: `$TMPDIR`; /var/tmp, a disk where /tmp may be memory; /tmp."""
    given = os.environ.get("TMPDIR")
    return tuple(Path(p) for p in ([given] if given else []) + ["/var/tmp", "/tmp"])  # noqa: S108


class VmFolder:
    """A locked folder that only its owner removes while it lives."""

    def __init__(self) -> None:
        """Make and lock the folder in the first place whose path a socket can have.

        Raises InputError where there is none.
        """
        self.path, self._lock_fd = _make()

    def remove(self) -> None:
        """Remove the folder with all in it; twice does no harm."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _make() -> tuple[Path, int]:
    refused = []
    for parent in candidates():
        name_bytes = len(os.fsencode(parent)) + len(PREFIX) + 8 + len(LONGEST_SOCKET) + 2
        if name_bytes > SOCKET_PATH_LIMIT:
            refused.append(f"{parent}: too long for a socket in it")
            continue
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        return path, fd
    raise InputError(
        f"no folder for a VM's sockets and disk ({'; '.join(refused)}): "
        "set TMPDIR to a short path that can be written"
    )


def sweep() -> list[Path]:
    """Remove this user's VM folders whose giveback is dead; returns them."""
    removed = []
    for parent in dict.fromkeys(candidates()):
        with suppress(OSError):
            for folder in sorted(parent.glob(f"{PREFIX}*")):
                if _is_stale(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder)
    return removed


def _is_stale(folder: Path) -> bool:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # Without a lock it may be another program's, or one that is being made right now.
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
