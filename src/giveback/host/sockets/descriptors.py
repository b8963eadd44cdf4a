"""The sockets that a process has open, by inode: `/proc/PID/fd`. Source: proc_pid_fd(5)."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from giveback_kernel.files import under

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTORS_LIMIT = 16384
"""A QEMU has about a hundred; a socket that it listens at is among its first."""
_PREFIX = "socket:["


def has_socket(root: str, pid: int, inode: int) -> bool:
    """Whether the process has this socket open. Raises OSError where it has gone or hides from us."""
    wanted = f"{_PREFIX}{inode}]"
    return inode > 0 and any(link == wanted for link in _links(root, pid))


def has_file(root: str, pid: int, path: str) -> bool:
    """Whether the process has the file at this path open. Raises OSError where it has gone or hides."""
    return any(link == path for link in _links(root, pid))


def sockets_of(root: str, pid: int, most: int) -> tuple[int, ...]:
    """The inodes of the first `most` sockets that the process has open, by descriptor.

    Raises OSError where it has gone or hides from us.
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
    """What the descriptors lead to, at most DESCRIPTORS_LIMIT of them."""
    with os.scandir(under(root, f"/proc/{pid}/fd")) as entries:
        for entry in itertools.islice(entries, DESCRIPTORS_LIMIT):
            try:
                yield os.readlink(entry.path)  # noqa: PTH115  # thousands of them
            except FileNotFoundError:
                continue  # Closed meanwhile.
