"""Bounded reads and writes of kernel files under a root path.

A kernel file can be missing, empty, truncated or enormous; none of these may take the agent down or
make it large. Tests pass a fake tree as `root`.
"""

from __future__ import annotations

import errno
import os
import stat

from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

READ_LIMIT_BYTES = 1 << 20
PIECE_BYTES = 1 << 16
_NOT_FOR_US = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)


def under(root: str, path: str) -> str:
    """Join an absolute kernel path to a root directory.

    For example, `/proc/stat` under `/` is `/proc/stat`.
    """
    return path if root in ("", "/") else root.rstrip("/") + path


def open_regular(full: str) -> int:
    """Open a regular file for reading without waiting; refuse a pipe or a device in its place.

    Raises OSError, and KernelFileError if it is not a regular file.
    """
    fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), full)
        raise KernelFileError(full, "not a regular file")
    return fd


def read(root: str, path: str, limit_bytes: int = READ_LIMIT_BYTES) -> bytes:
    """Read a whole kernel file.

    Raises KernelFileError if it is missing, unreadable, not a regular file, or longer than
    `limit_bytes`.
    """
    full = under(root, path)
    chunks = []
    total = 0
    try:
        fd = open_regular(full)
        try:
            while True:
                chunk = os.read(fd, 65536)
                if not chunk:
                    break
                total += len(chunk)
                if total > limit_bytes:
                    raise KernelFileError(
                        full, f"longer than {limit_bytes} bytes; not read further"
                    )
                chunks.append(chunk)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFileError(full, os.strerror(error.errno or 0), error.errno) from error
    return b"".join(chunks)


def pieces(root: str, path: str, limit_bytes: int, cpu_limit_s: float) -> Iterator[bytes]:
    """Read a long file piece by piece; an empty last piece means that the whole file was read.

    Reading ends early at `limit_bytes`, or after `cpu_limit_s` of CPU time, including the kernel's.
    Raises KernelFileError if the file is missing, or if this user may not read it.
    """
    full = under(root, path)
    left, stop_s = limit_bytes, _cpu_s() + cpu_limit_s
    try:
        fd = open_regular(full)
        try:
            while left > 0 and _cpu_s() < stop_s:
                piece = os.read(fd, PIECE_BYTES)
                yield piece
                if not piece:
                    return
                left -= len(piece)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFileError(full, os.strerror(error.errno or 0), error.errno) from error


def _cpu_s() -> float:
    """Return the CPU seconds of this process, including its time in the kernel."""
    return sum(os.times()[:2])


def read_if_permitted(root: str, path: str, limit_bytes: int = READ_LIMIT_BYTES) -> bytes | None:
    """Read a whole kernel file; return None if it is missing or this user may not read it.

    Raises KernelFileError for any other failure.
    """
    try:
        return read(root, path, limit_bytes)
    except KernelFileError as error:
        if error.errno in _NOT_FOR_US:
            return None
        raise


def write(root: str, path: str, text: str) -> None:
    """Write `text` to a kernel file in one write call. Raises KernelFileError with the errno."""
    full = under(root, path)
    try:
        fd = os.open(full, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFileError(full, os.strerror(error.errno or 0), error.errno) from error


def exists(root: str, path: str) -> bool:
    """Return whether the file exists, even if it may not be read."""
    return os.access(under(root, path), os.F_OK)
