"""Who is at the other end of a unix socket, and what that one may do. The kernel's word, not the peer's.

Source: unix(7), SO_PEERCRED and SO_PEERGROUPS (Linux 4.13): what the peer was when it connected.
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
    """What a peer may do; each includes the one before."""

    NOTHING = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class ApiPeer:
    """The process that connected; -1 where it is not known (TCP)."""

    pid: int
    uid: int
    gids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """Root and `own_uid` may write, so may the writers; readers may read; others nothing. Pure."""

    own_uid: int = field(default_factory=os.geteuid)
    writer_uids: frozenset[int] = frozenset()
    writer_gids: frozenset[int] = frozenset()
    reader_uids: frozenset[int] = frozenset()
    reader_gids: frozenset[int] = frozenset()

    def level(self, peer: ApiPeer) -> Level:
        """What this peer may do."""
        if peer.uid < 0:
            return Level.NOTHING
        if peer.uid in {0, self.own_uid} | self.writer_uids or peer.gids & self.writer_gids:
            return Level.WRITE
        if peer.uid in self.reader_uids or peer.gids & self.reader_gids:
            return Level.READ
        return Level.NOTHING


def access(writers: Iterable[str] = (), readers: Iterable[str] = ()) -> ApiAccess:
    """Rules from settings: each word is a user or, with `@` before it, a group; numbers may be.

    Raises InputError for a user or group that there is not.
    """
    write, read = [_resolved(w) for w in writers], [_resolved(r) for r in readers]
    return ApiAccess(
        writer_uids=frozenset(number for is_group, number in write if not is_group),
        writer_gids=frozenset(number for is_group, number in write if is_group),
        reader_uids=frozenset(number for is_group, number in read if not is_group),
        reader_gids=frozenset(number for is_group, number in read if is_group),
    )


def group_id(name: str) -> int:
    """A group's number. Raises InputError where there is no such group."""
    number = _number(name)
    if number is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError) as error:
        shown = escape_for_terminal(name, 40)
        raise InputError(
            f"group {shown!r}: there is none; make it (groupadd -r {shown}) or name another"
        ) from error


def _resolved(word: str) -> tuple[bool, int]:
    if word.startswith("@"):
        return True, group_id(word[1:])
    number = _number(word)
    if number is not None:
        return False, number
    try:
        return False, pwd.getpwnam(word).pw_uid
    except (KeyError, ValueError) as error:
        shown = escape_for_terminal(word, 40)
        raise InputError(f"user {shown!r}: there is none; a group is written @{shown}") from error


def _number(word: str) -> int | None:
    """The user or group of a number; None for a name, or more than the kernel has."""
    if not (word.isascii() and word.isdigit() and len(word) <= _DIGITS_LIMIT):
        return None
    return int(word) if int(word) < _NO_ID else None


def peer_of(connection: socket.socket) -> ApiPeer:
    """Who connected. Raises OSError where the kernel does not say."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", packed)
    return ApiPeer(pid, uid, frozenset({gid} | _groups(connection, uid, gid)))


def _groups(connection: socket.socket, uid: int, gid: int) -> set[int]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_LIMIT_BYTES)
    except OSError:
        # An old kernel, or more groups than fit: those that the user has by the system's files.
        return _listed_groups(uid, gid)
    return set(struct.unpack(f"{len(packed) // 4}I", packed))


def _listed_groups(uid: int, gid: int) -> set[int]:
    try:
        return set(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return set()
