"""Read the open sockets and files of a process from `/proc/PID/fd`. Source: proc_pid_fd(5)."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from giveback_kernel.files import under

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTORS_LIMIT = 16384
"""Limit of descriptors read. A QEMU has about a hundred; its listening sockets are among the first."""
_PREFIX = "socket:["


def has_socket(root: str, pid: int, inode: int) -> bool:
    """Tell whether the process has the socket of this inode open.

    Raises OSError if it has ended or may not be read.
    """
    wanted = f"{_PREFIX}{inode}]"
    return inode > 0 and any(link == wanted for link in _links(root, pid))


def has_file(root: str, pid: int, path: str) -> bool:
    """Tell whether the process has the file at this path open.

    Raises OSError if it has ended or may not be read.
    """
    return any(link == path for link in _links(root, pid))


def sockets_of(root: str, pid: int, most: int) -> tuple[int, ...]:
    """Return the inodes of the first `most` sockets that the process has open, in order of descriptor.

    Raises OSError if it has ended or may not be read.
    """
    found: list[int] = []
    for link in _links(root, pid):
        number = link.removeprefix(_PREFIX).removesuffix("]")
        if link.startswith(_PREFIX) and number.isdigit():
            found.append(int(number))
            if len(found) >= most:
                break
    return tuple(found)


def _links(root: str, pid: int) -> Iterator[str]:
    """Yield the link targets of at most DESCRIPTORS_LIMIT descriptors."""
    with os.scandir(under(root, f"/proc/{pid}/fd")) as entries:
        for entry in itertools.islice(entries, DESCRIPTORS_LIMIT):
            try:
                yield os.readlink(entry.path)  # noqa: PTH115  # thousands of them
            except FileNotFoundError:
                continue  # The process has closed it since.
