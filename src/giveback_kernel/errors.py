"""The root of the error tree that all of giveback's packages share, and a kernel file's error.

Text and exit codes are made only at the edge: in `giveback.cli` and in `giveback_agent.__main__`.
"""

from __future__ import annotations


class GivebackError(Exception):
    """Base of every error raised on purpose. Its text names the file, VM or setting, and what to do."""

    exit_code = 1


class KernelFileError(GivebackError):
    """A kernel file could not be read, written or understood.

    `path` is the file; `errno` is the failed call's errno, or None where the content was at fault.
    """

    def __init__(self, path: str, reason: str, errno: int | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.errno = errno
