"""Identify the peer of a unix socket by the kernel, not by its own claim, and decide what it may do.

Source: unix(7), SO_PEERCRED and SO_PEERGROUPS (Linux 4.13): the peer's ids at the time it connected.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

_SO_PEERGROUPS = 59
_DIGITS_LIMIT, _NO_ID = 10, (1 << 32) - 1
_GETSOCKOPT_LIMIT_BYTES = 1024
"""Python's own limit: 256 groups."""


class Level(IntEnum):
    """The rights of a peer; each level includes the one before."""

    NOTHING = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class ApiPeer:
    """The process that connected; its ids are -1 if unknown (TCP)."""

    pid: int
    uid: int
    gids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """The rules of access: root, `own_uid` and writers may write, readers may read, others nothing."""

    own_uid: int = field(default_factory=os.geteuid)
    writer_uids: frozenset[int] = frozenset()
    writer_gids: frozenset[int] = frozenset()
    reader_uids: frozenset[int] = frozenset()
    reader_gids: frozenset[int] = frozenset()

    def level(self, peer: ApiPeer) -> Level:
        """Return the rights of this peer. Pure."""
        if peer.uid < 0:
            return Level.NOTHING
        if peer.uid in {0, self.own_uid} | self.writer_uids or peer.gids & self.writer_gids:
            return Level.WRITE
        if peer.uid in self.reader_uids or peer.gids & self.reader_gids:
            return Level.READ
        return Level.NOTHING


def access(writers: Iterable[str] = (), readers: Iterable[str] = ()) -> ApiAccess:
    """Return the rules of access for these users and groups.

    Each entry is a user or, after `@`, a group; by name or by number. Raises InputError for an unknown one.
    """
    write, read = [_resolved(w) for w in writers], [_resolved(r) for r in readers]
    return ApiAccess(
        writer_uids=frozenset(number for is_group, number in write if not is_group),
        writer_gids=frozenset(number for is_group, number in write if is_group),
        reader_uids=frozenset(number for is_group, number in read if not is_group),
        reader_gids=frozenset(number for is_group, number in read if is_group),
    )


def group_id(name: str) -> int:
    """Return a group's number. Raises InputError if the group does not exist."""
    number = _number(name)
    if number is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError) as error:
        shown = escape_for_terminal(name, 40)
        raise InputError(
            f"group {shown!r} does not exist; create it (groupadd -r {shown}) or name another"
        ) from error


def _resolved(name: str) -> tuple[bool, int]:
    if name.startswith("@"):
        return True, group_id(name[1:])
    number = _number(name)
    if number is not None:
        return False, number
    try:
        return False, pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError) as error:
        shown = escape_for_terminal(name, 40)
        raise InputError(f"user {shown!r} does not exist; write a group as @{shown}") from error


def _number(text: str) -> int | None:
    """Return the id if the text is a number within the kernel's limit, else None."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_LIMIT):
        return None
    return int(text) if int(text) < _NO_ID else None


def peer_of(connection: socket.socket) -> ApiPeer:
    """Return the peer of a connection. Raises OSError if the kernel does not name it."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", packed)
    return ApiPeer(pid, uid, frozenset({gid} | _groups(connection, uid, gid)))


def _groups(connection: socket.socket, uid: int, gid: int) -> set[int]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_LIMIT_BYTES)
    except OSError:
        # An old kernel, or more groups than fit: use the groups of the system's group database.
        return _listed_groups(uid, gid)
    return set(struct.unpack(f"{len(packed) // 4}I", packed))


def _listed_groups(uid: int, gid: int) -> set[int]:
    try:
        return set(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return set()
