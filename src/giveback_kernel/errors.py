"""The root of the error tree that all of giveback's packages share, and the error of a kernel file.

Only the edges make text and exit codes: `giveback.cli` and `giveback_agent.__main__`.
"""

from __future__ import annotations


class GivebackError(Exception):
    """Base of every deliberate error. Its text names the file, VM or setting, and says what to do."""

    exit_code = 1


class KernelFileError(GivebackError):
    """A kernel file could not be read, written or parsed.

    `path` is the file; `errno` is that of the failed call, or None if the content was invalid.
    """

    def __init__(self, path: str, reason: str, errno: int | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.errno = errno
