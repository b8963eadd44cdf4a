"""A lock that only its owner can hold: a separate file of mode 0600.

flock(2) needs only an open file: any user who may read a file or folder can lock it, for any time.
So a lock that decides whether a service starts is in a file that no other user can open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from giveback_kernel.errors import KernelFileError

POLL_S = 0.02
REPLACED_MOST = 100
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def take(path: str, wait_s: float = 0.0) -> int | None:
    """Return the descriptor that holds the lock at `path`, or None if another process has it.

    The file is made if it is missing. The lock ends when the descriptor is closed, or with the
    process. `wait_s` is how long to wait for the other process. Raises KernelFileError if the file
    cannot be made, is not a regular file, or belongs to another user.
    """
    deadline_s = time.monotonic() + wait_s
    for _ in range(REPLACED_MOST):
        fd = _open(path)
        kept = False
        try:
            if not _lock(fd, deadline_s):
                return None
            kept = _is_still_at(path, fd)
            if kept:
                return fd
        except OSError as error:
            raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error
        finally:
            if not kept:
                os.close(fd)
    raise KernelFileError(path, "is replaced again and again by another process")


def remove(path: str, fd: int) -> None:
    """Remove the lock's file, if `fd` holds it, and release the lock."""
    try:
        if _is_still_at(path, fd):
            os.unlink(path)
    except OSError:
        pass  # A file that stays does no harm: the lock is not the file.
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Open a file that no other user can open from now on."""
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise KernelFileError(path, "is not a regular file: remove it")
        # The folder's owner can replace the file anyway: under `sudo` the lock is that user's.
        if found.st_uid not in (os.geteuid(), os.stat(os.path.dirname(path) or ".").st_uid):
            raise KernelFileError(path, f"belongs to uid {found.st_uid}: remove it")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(fd, 0o600)
    except KernelFileError:
        os.close(fd)
        raise
    except OSError as error:
        os.close(fd)
        raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error
    return fd


def _lock(fd: int, deadline_s: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(POLL_S)
        else:
            return True


def _is_still_at(path: str, fd: int) -> bool:
    """Return whether `path` names the file of `fd`: another holder may have removed it meanwhile."""
    try:
        there, held = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
