"""The agent's files under /run/giveback: the lock of the one agent per guest, its status, its urgency.

They are under /run because their contents are not valid after a reboot. Only root can open the lock files:
every user who can open a file can lock it, and agent.pid is readable for all.
"""

from __future__ import annotations

import os

from giveback_agent.errors import AgentError
from giveback_kernel import files, private_lock, process_start
from giveback_kernel.errors import KernelFileError

FOLDER = "/run/giveback"
PID_PATH = FOLDER + "/agent.pid"
LOCK_PATH = FOLDER + "/agent.lock"
RECORDS_LOCK_PATH = FOLDER + "/records.lock"
URGENCY_PATH = FOLDER + "/urgency"
FILE_LIMIT_BYTES = 256 << 10
URGENCY_MOST_S = 86_400.0


class AlreadyRunningError(AgentError):
    """Another agent runs in this guest; `pid` is its process id, or None if it is not known."""

    def __init__(self, pid: int | None) -> None:
        who = f"pid {pid}" if pid else "its pid is not known"
        super().__init__(
            f"another giveback-agent already runs in this guest ({who}): stop it first"
        )
        self.pid = pid


def make_folder(root: str) -> None:
    """Make /run/giveback. Raises AgentError that names the missing right."""
    folder = files.under(root, FOLDER)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
    except OSError as error:
        raise AgentError(
            f"{folder}: {os.strerror(error.errno or 0)}: the service must run as root"
        ) from error


def hold_lock(root: str) -> int:
    """Become this guest's only agent; return the descriptor that holds the lock until it is closed.

    The kernel releases the lock when the process ends, however that ends. Raises AlreadyRunningError, and
    AgentError if a file cannot be made.
    """
    make_folder(root)
    path = files.under(root, LOCK_PATH)
    try:
        fd = private_lock.take(path)
    except KernelFileError as error:
        raise AgentError(f"{error}: the service must run as root") from error
    if fd is None:
        raise AlreadyRunningError(running_pid(root))
    if not write_file(root, PID_PATH, process_start.identity()):
        os.close(fd)
        raise AgentError(f"{files.under(root, PID_PATH)}: cannot be written: is /run full?")
    return fd


def release_lock(root: str, fd: int) -> None:
    """Release the lock and remove the pid file: a pid file that is left over then means a crash."""
    try:
        remove_file(root, PID_PATH)
    except KernelFileError:
        pass  # The pid in it is trusted only while this process lives.
    finally:
        os.close(fd)


def lock_records(root: str) -> int | None:
    """Lock the records under /run/giveback; return the lock's descriptor, or None if it is taken.

    The lock ends when the descriptor is closed, or with the process. Raises KernelFileError if the lock
    file cannot be made.
    """
    return private_lock.take(files.under(root, RECORDS_LOCK_PATH))


def running_pid(root: str) -> int | None:
    """Return the pid of the running agent, or None. A pid counts only with its process's start time."""
    try:
        return process_start.running(files.read(root, PID_PATH, process_start.TEXT_LIMIT_BYTES))
    except KernelFileError:
        return None


def write_file(root: str, path: str, text: str) -> bool:
    """Replace a file atomically; return whether it could be written. Never raises."""
    full = files.under(root, path)
    scratch = f"{full}.new"
    try:
        fd = os.open(
            scratch,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
            0o644,
        )
        try:
            # A cgroup's name may be any bytes. A full file system writes only a part of the text.
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
    """Remove the file at `path`, if it exists. Raises KernelFileError."""
    full = files.under(root, path)
    try:
        os.unlink(full)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelFileError(full, os.strerror(error.errno or 0), error.errno) from error


def write_urgency(root: str, urgency: int, until_monotonic_s: float) -> bool:
    """Write the urgency, which holds until `until_monotonic_s`; return whether that worked."""
    return write_file(root, URGENCY_PATH, f"{urgency} {until_monotonic_s:.3f}\n")


def read_urgency(root: str, now_monotonic_s: float) -> tuple[int, float] | None:
    """Return the urgency and until when it holds; None if none is set, it is over, or it is not valid."""
    try:
        words = files.read(root, URGENCY_PATH, 256).split()
        urgency, until_s = int(words[0]), float(words[1])
    except (KernelFileError, ValueError, IndexError):
        return None
    if not 0 <= urgency <= 3 or not now_monotonic_s < until_s <= now_monotonic_s + URGENCY_MOST_S:
        return None
    return urgency, until_s
