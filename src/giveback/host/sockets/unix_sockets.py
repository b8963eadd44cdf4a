"""Who waits at which socket: QEMU serves one client of a port, the next ones wait without a word.

A connection has the file of the socket that it was made at; a listener tells how many it has not accepted.
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
    """Sockets that serve somebody, and those where somebody waits, by the files that they are bound to."""

    served: frozenset[FileId] = frozenset()
    waited_for: frozenset[FileId] = frozenset()

    def serves(self, file: FileId | None) -> bool:
        """Whether somebody is served there."""
        return file in self.served

    def has_waiting(self, file: FileId | None) -> bool:
        """Whether one is served there and another waits."""
        return file in self.served and file in self.waited_for


def queues_of(sockets: Iterable[sock_diag.UnixSocket]) -> Queues:
    """Sort a list of sockets."""
    served: set[FileId] = set()
    waited_for: set[FileId] = set()
    for one in sockets:
        if one.file is not None and one.state == sock_diag.ESTABLISHED:
            served.add(one.file)
        elif one.file is not None and one.waiting:
            waited_for.add(one.file)
    return Queues(frozenset(served), frozenset(waited_for))


def read() -> Queues:
    """The queues of this network namespace now; none where they cannot be read."""
    try:
        return queues_of(sock_diag.bound_sockets())
    except VmError:
        return Queues()


def file_of(address: str) -> FileId | None:
    """The file that a socket's address names, within its process's root; None where there is none.

    The path may lead to a file system that never answers: the daemon has a reader process do this.
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
