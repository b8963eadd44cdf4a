"""The host side's errors, below the root that all of giveback's packages share."""

from __future__ import annotations

import errno
import os

from giveback_kernel.errors import GivebackError, KernelFileError


class InputError(GivebackError):
    """An input is invalid or missing, before anything was started: a size, a path, a program."""

    exit_code = 2


class VmError(GivebackError):
    """A VM did not do what was requested: it ended, panicked, hung or refused."""


class HostFaultError(GivebackError):
    """The host cannot do it now, though the input is valid: a full disk, too many open files.

    It may pass, so a service that ends with it is started again.
    """


PASSING_ERRNOS = frozenset(
    {
        errno.EADDRINUSE, errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE,
        errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip


def file_error(what: str, error: OSError | KernelFileError, advice: str) -> GivebackError:
    """Return the error for a file or socket that failed: `what` names it, `advice` says what to do.

    InputError if the input is at fault, HostFaultError if the fault may pass.
    """
    kind = HostFaultError if error.errno in PASSING_ERRNOS else InputError
    reason = os.strerror(error.errno) if error.errno else str(error)
    return kind(f"{what}: {reason}; {advice}")


class Interrupted(GivebackError):  # noqa: N818  # asked for, no error
    """The user or the system asked the program to stop."""

    def __init__(self, signal_name: str, signal_number: int) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.exit_code = 128 + signal_number
