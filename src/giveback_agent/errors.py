"""The agent's error tree. Text and exit codes are made only in `__main__`."""

from __future__ import annotations


class AgentError(Exception):
    """Base of every error the agent raises on purpose; its text names the file and what to do."""

    exit_code = 1


class KernelFileError(AgentError):
    """A kernel file could not be read, written or understood.

    `path` is the file; `errno` is the failed call's errno, or None where the content was at fault.
    """

    def __init__(self, path: str, reason: str, errno: int | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.errno = errno


class UsageError(AgentError):
    """The user asked for something that cannot be: exit code 2."""

    exit_code = 2
