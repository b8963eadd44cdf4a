"""The agent's own files under /run/giveback: one agent per guest, its status, its urgency.

They live under /run because what they speak of ends with the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from giveback_agent.errors import AgentError
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

FOLDER = "/run/giveback"
PID_PATH = FOLDER + "/agent.pid"
URGENCY_PATH = FOLDER + "/urgency"
FILE_LIMIT_BYTES = 256 << 10
URGENCY_MOST_S = 86_400.0
# Who asks whether an agent runs holds the lock for a moment, shared.
ASKED_WAIT_S = 1.0


class AlreadyRunningError(AgentError):
    """Another agent serves this guest; `pid` is its process id, or None where it is not told."""

    # Not 1: the unit must not start again what can only refuse again.
    exit_code = 2

    def __init__(self, pid: int | None) -> None:
        who = f"pid {pid}" if pid else "its pid is not known"
        super().__init__(
            f"another giveback-agent already runs in this guest ({who}): stop it first"
        )
        self.pid = pid


def make_folder(root: str) -> None:
    """Make /run/giveback. Raises AgentError that says which right is missing."""
    folder = files.under(root, FOLDER)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
    except OSError as error:
        raise AgentError(
            f"{folder}: {os.strerror(error.errno or 0)}: the service must run as root"
        ) from error


def hold_lock(root: str) -> int:
    """Become this guest's only agent; returns the file that holds the lock until it is closed.

    The lock is the kernel's: it ends with the process, however that ends. Raises AlreadyRunningError, and
    AgentError where the file cannot be made.
    """
    make_folder(root)
    path = files.under(root, PID_PATH)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise AgentError(
            f"{path}: {os.strerror(error.errno or 0)}: the service must run as root"
        ) from error
    try:
        _take(fd, root)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(fd)
        raise AgentError(f"{path}: {os.strerror(error.errno or 0)}") from error
    except AlreadyRunningError:
        os.close(fd)
        raise
    return fd


def lock_folder(root: str) -> int | None:
    """Lock /run/giveback, which needs no file in it; None where another process has the lock.

    The lock ends when what is returned is closed, or with the process. Raises KernelFileError where the
    folder cannot be opened.
    """
    full = files.under(root, FOLDER)
    try:
        fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise KernelFileError(full, os.strerror(error.errno or 0), error.errno) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _take(fd: int, root: str) -> None:
    """Lock the file. Raises AlreadyRunningError where an agent has it, OSError for what else fails."""
    deadline_s = time.monotonic() + ASKED_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            pid = running_pid(root)
            if pid is not None or time.monotonic() > deadline_s:
                raise AlreadyRunningError(pid) from error
            time.sleep(0.02)
        else:
            return


def running_pid(root: str) -> int | None:
    """The pid of the agent that holds the lock, or None where none does."""
    path = files.under(root, PID_PATH)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 32)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return int(text) if text.strip().isdigit() else None
        return None
    except OSError:
        return None
    finally:
        os.close(fd)


def write_file(root: str, path: str, text: str) -> bool:
    """Replace a file in one step; False where it could not be written. Never raises."""
    full = files.under(root, path)
    scratch = f"{full}.new"
    try:
        fd = os.open(
            scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        try:
            # A cgroup's name may be any bytes. A full file system takes a part of the text.
            data = text.encode("utf-8", "surrogateescape")
            if os.write(fd, data) != len(data):
                return False
        finally:
            os.close(fd)
        os.replace(scratch, full)
    except OSError:
        return False
    return True


def remove_file(root: str, path: str) -> None:
    """Remove what was kept at `path`; nothing where it is gone. Raises KernelFileError."""
    full = files.under(root, path)
    try:
        os.unlink(full)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelFileError(full, os.strerror(error.errno or 0), error.errno) from error


def write_urgency(root: str, urgency: int, until_monotonic_s: float) -> bool:
    """Say how badly the host needs memory, until a moment of the guest's monotonic clock."""
    return write_file(root, URGENCY_PATH, f"{urgency} {until_monotonic_s:.3f}\n")


def read_urgency(root: str, now_monotonic_s: float) -> tuple[int, float] | None:
    """The urgency that counts now and until when; None where none is set, or it is over or nonsense."""
    try:
        words = files.read(root, URGENCY_PATH, 256).split()
        urgency, until_s = int(words[0]), float(words[1])
    except (KernelFileError, ValueError, IndexError):
        return None
    if not 0 <= urgency <= 3 or not now_monotonic_s < until_s <= now_monotonic_s + URGENCY_MOST_S:
        return None
    return urgency, until_s
