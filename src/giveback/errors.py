"""The host side's error tree. Text and exit codes are made only in `giveback.cli`."""

from __future__ import annotations


class GivebackError(Exception):
    """Base of every error raised on purpose. Its text names the file, VM or setting, and what to do."""

    exit_code = 1


class InputError(GivebackError):
    """Something given or missing before anything was started: a size, a path, a program."""

    exit_code = 2


class VmError(GivebackError):
    """A VM did not do what was asked: it ended, panicked, hung or refused."""


class Interrupted(GivebackError):  # noqa: N818  # asked for, no error
    """The user or the system asked the program to stop."""

    def __init__(self, signal_name: str, signal_number: int) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.exit_code = 128 + signal_number
