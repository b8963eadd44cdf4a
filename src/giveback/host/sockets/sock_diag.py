"""Query the kernel's list of sockets of this network namespace over netlink: as numbers, not text.

A name with newlines forges lines of /proc/net/unix, and two containers may have sockets of the same name.
Here an inode identifies a unix socket, and a device and an inode identify the file that it is bound to.
Source: sock_diag(7); Linux net/unix/diag.c, net/ipv4/inet_diag.c, include/uapi/linux/unix_diag.h.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.errors import VmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ESTABLISHED, LISTENING = 1, 10
"""TCP_ESTABLISHED and TCP_LISTEN, which apply to unix sockets, too."""
_SOCK_DIAG = 4
_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x001, 0x300
_SHOW_NAME, _SHOW_VFS, _SHOW_PEER, _SHOW_QUEUE = 0x1, 0x2, 0x4, 0x10
_ATTRIBUTE_NAME, _ATTRIBUTE_VFS, _ATTRIBUTE_PEER, _ATTRIBUTE_QUEUE = 0, 1, 2, 4
_HEADER = struct.Struct("=IHHII")
_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_UNIX_MESSAGE = struct.Struct("=BBBBIII")
_INET_REQUEST = struct.Struct("=BBBBI" + "HH16s16sIII")
_INET_MESSAGE = struct.Struct("=BBBB" + "HH16s16sIII" + "IIIII")
_NO_COOKIE = 0xFFFFFFFF
_BUFFER_BYTES = 256 << 10
_LIST_LIMIT_BYTES = 64 << 20
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class FileId:
    """The identity of a file in the kernel's list: 32 bits of its inode, and its file system's device."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileId:
        """Return the identity of a file from its stat result."""
        device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        return cls(device, status.st_ino & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A unix socket. `waiting` is the number of connections that a listener has not accepted yet."""

    inode: int
    state: int
    file: FileId | None = None
    name: bytes = b""
    """The name as bound; it begins with a NUL in the abstract namespace."""
    peer_inode: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class TcpListener:
    """A TCP socket that listens at `address`; 0.0.0.0 or :: stand for all addresses."""

    inode: int
    address: str
    port: int


def bound_sockets() -> tuple[UnixSocket, ...]:
    """Return all listening and connected unix sockets. Raises VmError if the kernel cannot list them."""
    asked = _unix_request(1 << LISTENING | 1 << ESTABLISHED, 0, _SHOW_VFS | _SHOW_QUEUE)
    with _netlink() as netlink:
        return tuple(parse_unix(body) for body in _list(netlink, asked) if len(body) >= 16)


def listening_sockets() -> tuple[UnixSocket, ...]:
    """Return every unix socket that listens. Raises VmError if the kernel cannot list them."""
    asked = _unix_request(1 << LISTENING, 0, _SHOW_NAME | _SHOW_VFS)
    with _netlink() as netlink:
        return tuple(parse_unix(body) for body in _list(netlink, asked) if len(body) >= 16)


def unix_sockets_of(inodes: Iterable[int]) -> Iterator[UnixSocket]:
    """Yield those of the sockets that are unix sockets of this network namespace. Raises VmError.

    Each is queried only when the caller asks for the next: a VMM's listening sockets are among its first.
    """
    with _netlink() as netlink:
        for inode in inodes:
            asked = _unix_request(0xFFFFFFFF, inode, _SHOW_NAME | _SHOW_VFS | _SHOW_PEER)
            try:
                bodies = list(_list(netlink, asked, dump=False))
            except _NoSuchSocketError:
                continue
            yield from (parse_unix(body) for body in bodies if len(body) >= 16)


def peer_inode(inode: int) -> int:
    """Return the inode of a connected socket's peer; 0 while its server has not accepted it.

    Raises VmError if the kernel cannot be asked.
    """
    return next((one.peer_inode for one in unix_sockets_of((inode,))), 0)


def tcp_listeners() -> tuple[TcpListener, ...]:
    """Return every listening TCP socket of both families. Raises VmError if the kernel cannot list them."""
    found: list[TcpListener] = []
    with _netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            asked = _INET_REQUEST.pack(
                family, socket.IPPROTO_TCP, 0, 0, 1 << LISTENING,
                0, 0, bytes(16), bytes(16), 0, _NO_COOKIE, _NO_COOKIE,
            )  # fmt: skip
            bodies = _list(netlink, asked)
            found += (parse_tcp(body) for body in bodies if len(body) >= _INET_MESSAGE.size)
    return tuple(found)


def tcp_owner(client: tuple[str, int], server: tuple[str, int]) -> int:
    """Return the uid of the owner of the TCP socket that is connected from `client` to `server`.

    Both are pairs of host and port. The result is -1 if there is no such socket, or if its process has
    already closed it: the kernel then reports root's uid. Raises VmError if the kernel cannot be asked.
    """
    addresses = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (client, server)]
    family = socket.AF_INET6 if addresses[0].version == 6 else socket.AF_INET
    source, target = (address.packed.ljust(16, b"\0") for address in addresses)
    asked = _INET_REQUEST.pack(
        family, socket.IPPROTO_TCP, 0, 0, 1 << ESTABLISHED, socket.htons(client[1]),
        socket.htons(server[1]), source, target, 0, _NO_COOKIE, _NO_COOKIE,
    )  # fmt: skip
    with _netlink() as netlink:
        try:
            bodies = list(_list(netlink, asked, dump=False))
        except _NoSuchSocketError:
            return -1
    return next((parse_tcp_owner(b) for b in bodies if len(b) >= _INET_MESSAGE.size), -1)


def parse_tcp_owner(body: bytes) -> int:
    """Parse the uid in struct inet_diag_msg; -1 if the socket is not connected."""
    fields = _INET_MESSAGE.unpack_from(body)
    state, uid, inode = fields[1], fields[-2], fields[-1]
    return int(uid) if state == ESTABLISHED and inode else -1


def parse_unix(body: bytes) -> UnixSocket:
    """Parse struct unix_diag_msg and its attributes; `body` must have at least 16 bytes."""
    _, _, state, _, inode, _, _ = _UNIX_MESSAGE.unpack_from(body)
    file, name, peer, waiting = None, b"", 0, 0
    for kind, value in _attributes(body[_UNIX_MESSAGE.size :]):
        if kind == _ATTRIBUTE_VFS and len(value) >= 8:
            file_inode, device = struct.unpack_from("=II", value)
            file = FileId(device, file_inode)
        elif kind == _ATTRIBUTE_NAME:
            name = value
        elif kind == _ATTRIBUTE_PEER and len(value) >= 4:
            (peer,) = struct.unpack_from("=I", value)
        elif kind == _ATTRIBUTE_QUEUE and state == LISTENING and len(value) >= 4:
            (waiting,) = struct.unpack_from("=I", value)
    return UnixSocket(inode, state, file, name, peer, waiting)


def parse_tcp(body: bytes) -> TcpListener:
    """Parse struct inet_diag_msg, whose ports and addresses are in network order."""
    fields = _INET_MESSAGE.unpack_from(body)
    family, port, source = fields[0], socket.ntohs(fields[4]), fields[6]
    packed = source if family == socket.AF_INET6 else source[:4]
    return TcpListener(fields[-1], str(ipaddress.ip_address(packed)), port)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, place)
        if length < 4:
            return
        yield kind & 0x3FFF, data[place + 4 : place + length]
        place += (length + 3) & ~3


class _NoSuchSocketError(VmError):
    """The kernel has no such socket in this network namespace."""


@contextlib.contextmanager
def _netlink() -> Iterator[socket.socket]:
    """Yield a netlink socket for requests; an OSError within the context becomes a VmError."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG
        ) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            yield netlink
    except OSError as error:
        why = error.strerror or str(error)
        raise VmError(f"the kernel does not list its sockets: {why}") from error


def _unix_request(states: int, inode: int, show: int) -> bytes:
    return _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, states, inode, show, _NO_COOKIE, _NO_COOKIE)


def _list(netlink: socket.socket, asked: bytes, *, dump: bool = True) -> Iterator[bytes]:
    """Yield the bodies of the answer to one request. Raises VmError, OSError."""
    flags = _REQUEST | (_DUMP if dump else 0)
    netlink.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, flags, 1, 0) + asked)
    left = _LIST_LIMIT_BYTES
    while left > 0:
        data, _, _, sender = netlink.recvmsg(_BUFFER_BYTES)
        left -= len(data)
        if sender[0] != 0:
            continue  # Not the kernel.
        for kind, body in parse_messages(data):
            if kind == _BY_FAMILY:
                yield body
            elif kind in (_ERROR, _DONE):
                _raise_refusal(body, dump=dump)
                return
        if not dump:
            return


def _raise_refusal(body: bytes, *, dump: bool) -> None:
    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if number == errno.ENOENT:
        if not dump:
            raise _NoSuchSocketError("no such socket")
        raise VmError("the kernel does not list its sockets: modprobe unix_diag tcp_diag")
    if number > 0:
        raise OSError(number, os.strerror(number))


def parse_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the types and bodies of the netlink messages in one datagram."""
    place = 0
    while place + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, place)
        if length < _HEADER.size:
            return
        yield kind, data[place + _HEADER.size : place + length]
        place += (length + 3) & ~3
