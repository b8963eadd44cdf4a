"""Find the sockets at which clients wait: QEMU serves one client of a port, and others wait silently.

In the kernel's list, a connection has the file of the socket at which it was made, and a listener the number
of connections that it has not accepted.
Source: unix_stream_connect() and sk_diag_fill() in Linux net/unix.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.host import own_root
from giveback.host.sockets import sock_diag
from giveback.host.sockets.sock_diag import FileId

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Queues:
    """The files of sockets that serve a client, and of those at which a client waits."""

    served: frozenset[FileId] = frozenset()
    waited_for: frozenset[FileId] = frozenset()

    def serves(self, file: FileId | None) -> bool:
        """Tell whether a client is served at the socket of this file."""
        return file in self.served

    def has_waiting(self, file: FileId | None) -> bool:
        """Tell whether one client is served at the socket of this file, and another waits."""
        return file in self.served and file in self.waited_for


def queues_of(sockets: Iterable[sock_diag.UnixSocket]) -> Queues:
    """Sort sockets into those that serve a client and those at which one waits."""
    served: set[FileId] = set()
    waited_for: set[FileId] = set()
    for one in sockets:
        if one.file is not None and one.state == sock_diag.ESTABLISHED:
            served.add(one.file)
        elif one.file is not None and one.waiting:
            waited_for.add(one.file)
    return Queues(frozenset(served), frozenset(waited_for))


def read() -> Queues:
    """Return the queues of this network namespace; empty ones if the kernel cannot list its sockets."""
    try:
        return queues_of(sock_diag.bound_sockets())
    except VmError:
        return Queues()


def file_of(address: str) -> FileId | None:
    """Return the identity of a socket's file within its process's root; None if there is none.

    The path may lead to a file system that never answers: the daemon runs this in a reader process.
    """
    named = own_root.named_by(address)
    try:
        if named is None:
            return FileId.of(os.stat(address)) if address.startswith("/") else None  # noqa: PTH116
        place = own_root.open_within("/", *named)
    except (OSError, ValueError, VmError):
        return None
    try:
        return FileId.of(os.fstat(place))
    finally:
        os.close(place)
