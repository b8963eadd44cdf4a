"""Open a path as another process sees it, within that process's root and never outside.

A path from a stranger may lead anywhere: an absolute symbolic link below /proc/PID/root is followed from
*our* root. openat2() resolves the whole path as the process itself would, in one call.
Source: openat2(2), RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS; Linux 5.6.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
from typing import Self

from giveback.errors import VmError
from giveback_kernel.files import under

_OPENAT2 = 437
"""The number of openat2, the same on all architectures except alpha."""
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_OWN_VIEW = re.compile(r".*?/proc/(\d{1,10})/(?:root(/.*)|cwd/([^/].*))", re.DOTALL | re.ASCII)


class PinnedFile:
    """An O_PATH descriptor of a file: a later replacement of the file's path has no effect on it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        """A path to the file itself, valid in this process only."""
        return f"/proc/self/fd/{self._fd}"

    def fileno(self) -> int:
        """Return the descriptor, which stays open."""
        return self._fd

    def detach(self) -> int:
        """Return the descriptor, which the caller closes from now on."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor; a second call has no effect."""
        if self._fd >= 0:
            os.close(self.detach())


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def named_by(address: str) -> tuple[int, str] | None:
    """Return the PID in a path from `procs.own_path` and the path as that process sees it; else None.

    This is the inverse of `procs.own_path`.
    """
    match = _OWN_VIEW.fullmatch(address)
    return None if match is None else (int(match[1]), match[2] or match[3])


def open_within(root: str, pid: int, path: str) -> int:
    """Return an O_PATH descriptor of `path` as the process `pid` sees it; the caller closes it.

    The descriptor pins the file: a later replacement of the path has no effect. Raises OSError if there is
    no such file or access is denied, ValueError if the text is not a path, and VmError if the kernel lacks
    openat2.
    """
    if "\0" in path:
        raise ValueError("a path with a NUL")
    if not path.startswith("/"):
        path = f"{_working_folder(root, pid)}/{path}"
    top = os.open(under(root, f"/proc/{pid}/root"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _openat2(top, os.fsencode(path))
    finally:
        os.close(top)


def _working_folder(root: str, pid: int) -> str:
    """Return the working folder below the process's root; the kernel shows both relative to our root."""
    top = os.readlink(under(root, f"/proc/{pid}/root"))  # noqa: PTH115
    folder = os.readlink(under(root, f"/proc/{pid}/cwd"))  # noqa: PTH115
    return folder if top == "/" else folder.removeprefix(top)


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _openat2(folder: int, path: bytes) -> int:
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    opened: int = _library().syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(folder),
        ctypes.c_char_p(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if opened >= 0:
        return opened
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        raise VmError(
            "a path within another process's root cannot be opened: openat2 needs Linux 5.6, and a systemd "
            "unit without RestrictSUIDSGID (`giveback daemon --print-unit`)"
        )
    raise OSError(number, os.strerror(number))
