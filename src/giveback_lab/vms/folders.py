"""A VM's own folder, with its sockets, logs and work disk. It is removed when its giveback exits.

A giveback that was SIGKILLed cannot clean up. The lock of its folder is then free, so the next
giveback recognises the folder and removes it. A process id would be ambiguous: containers that
share a temporary folder have process ids of their own.
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
# sockaddr_un.sun_path is 108 bytes including the final NUL; this is the longest name in a VM's
# folder.
SOCKET_PATH_LIMIT = 107
LONGEST_SOCKET = "agent.sock"


def candidates() -> tuple[Path, ...]:
    """Return the folders that may hold VM folders: `$TMPDIR`, /var/tmp, /tmp.

    /var/tmp comes before /tmp because /tmp may be in memory.
    """
    given = os.environ.get("TMPDIR")
    return tuple(Path(p) for p in ([given] if given else []) + ["/var/tmp", "/tmp"])  # noqa: S108


class VmFolder:
    """A locked folder. While its owner lives, only the owner removes it."""

    def __init__(self) -> None:
        """Make and lock the folder in the first candidate whose path is short enough for a socket.

        Raises InputError if no candidate will do.
        """
        self.path, self._lock_fd = _make()

    def remove(self) -> None:
        """Remove the folder and its contents. A second call does nothing."""
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
    """Remove this user's VM folders whose giveback has died; return their paths."""
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
        # A folder without a lock may belong to another program, or be in the making.
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
