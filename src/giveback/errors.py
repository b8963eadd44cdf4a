"""The host side's errors, below the root that all of giveback's packages share."""

from __future__ import annotations

from giveback_kernel.errors import GivebackError


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
