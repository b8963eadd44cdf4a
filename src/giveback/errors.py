"""The host side's errors, below the root that all of giveback's packages share."""

from __future__ import annotations

import errno
import os
import re

from giveback_kernel.errors import GivebackError, KernelFileError

NOT_READABLE = "no permission to read it; run as root or with CAP_SYS_PTRACE"
"""The end of a problem: a process's memory may be read by root and, as a rule, its own user."""
NOT_OPENED = "no permission to open it; run as root or as the VM's own user"


class InputError(GivebackError):
    """An input is invalid or missing, before anything was started: a size, a path, a program."""

    exit_code = 2


_OWN_VIEW = re.compile(r"/proc/\d{1,10}/(?:root(?=/)|cwd/)", re.ASCII)


def by_its_own_names(text: str) -> str:
    """Return the text with each path as its process names it: `/run/q.sock` for `/proc/7/root/run/q.sock`.

    The longer form is how we reach it; a user knows the one on the VM's command line.
    """
    return _OWN_VIEW.sub("", text)


class VmError(GivebackError):
    """A VM did not do what was requested: it ended, panicked, hung or refused.

    Its text has the VM's paths as the VMM names them.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(by_its_own_names(text))


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
