"""Connect to sockets of a VM's own process, and to no others.

A command line may have any text: a stranger's may name the monitor of another user's VM, or a database.
So before a connection is made, the socket that listens at an address must be among the descriptors of
the process that names it. The file is opened within that process's root, and connected to by its
descriptor, so that it cannot be replaced in between: a socket's file is bound once, to one socket.

The kernel lists the sockets of our network namespace. If the VM has another namespace, or a file system
whose device numbers differ inside the kernel (btrfs), the file must belong to the process's user, and the
process itself must have accepted the connection before a byte is written. SO_PEERCRED is not sufficient:
it identifies the process that called listen(), and libvirt passes QEMU sockets that it opened itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.host import own_root
from giveback.host.owners import read_uids
from giveback.host.readers import plain, pool
from giveback.host.readers.pool import SHORT
from giveback.host.sockets import descriptors, sock_diag, unix_sockets
from giveback.host.sockets.sock_diag import FileId
from giveback.vmm.clients.sockets import connected, reason
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.host.sockets.sock_diag import TcpListener, UnixSocket

SOCKETS_LIMIT = 1024
"""The number of sockets of one process that are read; a VMM's listening sockets are among its first."""
_VSOCK_DEVICE = "/dev/vhost-vsock"
_ACCEPTED_POLLS = 50
_AGAIN_S = 0.02
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound to


async def connect(address: str, pid: int) -> socket.socket:
    """Return a non-blocking socket that is connected to the process `pid`; the caller closes it.

    `address` is a path (from `own_path`, or as the process sees it), `@name` or `host:port`. A reader
    process connects to a path, which may lead to a stranger's file system that never answers. Raises
    VmError with the remedy if the process does not listen there.
    """
    try:
        if address.startswith("@"):
            return _connect_abstract(address, pid)
        if "/" not in address:
            return await _connect_tcp(address, pid)
        connection, is_proven = await _connect_path(address, pid)
        if not is_proven:
            await _wait_until_accepted(address, connection, pid)
        return connection
    except OSError as error:
        raise VmError(f"{escape_for_terminal(address)}: {reason(error)}") from error


def check_vsock(cid: int, pid: int) -> None:
    """Raise VmError unless the process has the kernel's vsock device open, which a guest's CID needs.

    The kernel does not tell which CID the process has set.
    """
    try:
        has_device = descriptors.has_file("/", pid, _VSOCK_DEVICE)
    except OSError as error:
        raise VmError(f"vsock {cid}: {reason(error)}") from error
    if not has_device:
        raise VmError(
            f"vsock {cid}: process {pid} does not have {_VSOCK_DEVICE} open: the CID is not its guest's"
        )


async def _connect_path(address: str, pid: int) -> tuple[socket.socket, bool]:
    """Let a reader process connect; return the socket, and whether the process is proven to listen there."""
    found = await pool.shared().call(connect_to_file, address, pid, pid=pid, limits=SHORT)
    match found:
        case (socket.socket() as connection, bool(is_proven)):
            connection.setblocking(False)
            return connection, is_proven
    raise VmError(f"{escape_for_terminal(address)}: its reader returned no connection")


async def file_of(address: str, pid: int) -> FileId | None:
    """Return the identity of the file at a socket's path within the process's root; None if unknown.

    A reader process opens it: as in `connect`, the path may lead to a file system that never answers.
    """
    try:
        found = await pool.shared().call(unix_sockets.file_of, address, pid=pid, limits=SHORT)
        return plain.unpack(FileId, found) if found is not None else None
    except (VmError, ValueError):
        return None


async def is_queued(address: str, pid: int) -> bool:
    """Tell whether a client of the socket at `address` waits while another is served; False if unknown."""
    file = await file_of(address, pid)
    return file is not None and unix_sockets.read().has_waiting(file)


def connect_to_file(address: str, pid: int) -> tuple[socket.socket, bool]:
    """Connect to a socket's file. Runs in a reader process, because any step of it may hang.

    Returns the connected socket, and whether the process is proven to listen there. If it is not, the
    caller must wait until the process itself has accepted, and write nothing before. Raises VmError.
    """
    try:
        place = _pin(address, pid)
        try:
            is_proven = _is_proven(address, place, pid)
            return connected(f"/proc/self/fd/{place}"), is_proven
        finally:
            os.close(place)
    except OSError as error:
        raise VmError(f"{escape_for_terminal(address)}: {reason(error)}") from error


def _pin(address: str, pid: int) -> int:
    """Open the socket's file with O_PATH within the process's root. Raises VmError, OSError."""
    owner, path = own_root.named_by(address) or (pid, address)
    if owner != pid:
        raise VmError(f"{escape_for_terminal(address)}: a path of a process other than {pid}")
    try:
        place = own_root.open_within("/", pid, path)
    except ValueError as error:
        raise VmError(f"{escape_for_terminal(address)}: not a valid file name") from error
    if not stat.S_ISSOCK(os.fstat(place).st_mode):
        os.close(place)
        raise VmError(f"{escape_for_terminal(address)}: this file is not a socket")
    return place


def _is_proven(address: str, place: int, pid: int) -> bool:
    """Return True if the process listens at this file, and False if only a connection can prove it.

    Raises VmError if it does not listen there, and OSError if its descriptors cannot be read.
    """
    status = os.fstat(place)
    file = FileId.of(status)
    if any(one.file == file for one in listening(pid)):
        return True
    if any(one.file == file for one in sock_diag.listening_sockets()):
        raise _not_its_own(address, pid)
    own = [one.file for one in listening(pid) if one.file is not None]
    is_alike = any(one.inode == file.inode for one in own)
    if not is_alike and _is_in_our_network(pid):
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    if status.st_uid not in read_uids("/", pid):
        raise _not_its_own(address, pid)
    return False


def _not_its_own(address: str, pid: int) -> VmError:
    return VmError(
        f"{escape_for_terminal(address)}: process {pid} does not listen there, and giveback uses only the "
        "VM's own sockets; was its socket deleted or moved?"
    )


def listening(pid: int) -> Iterator[UnixSocket]:
    """Return the unix sockets of our network namespace at which the process listens.

    Raises VmError, OSError.
    """
    inodes = descriptors.sockets_of("/", pid, SOCKETS_LIMIT)
    found = sock_diag.unix_sockets_of(inodes)
    return (one for one in found if one.state == sock_diag.LISTENING)


def _is_in_our_network(pid: int) -> bool:
    ours, its = (os.stat(f"/proc/{who}/ns/net").st_ino for who in ("self", pid))  # noqa: PTH116
    return ours == its


async def _wait_until_accepted(address: str, connection: socket.socket, pid: int) -> None:
    """Wait until the process itself has the other end; else close the connection and raise VmError."""
    own = os.fstat(connection.fileno()).st_ino
    try:
        for _ in range(_ACCEPTED_POLLS):
            if peer := sock_diag.peer_inode(own):
                if descriptors.has_socket("/", pid, peer):
                    return
                raise _not_its_own(address, pid)
            await asyncio.sleep(_AGAIN_S)
        raise VmError(
            f"{escape_for_terminal(address)}: not accepted in {_ACCEPTED_POLLS * _AGAIN_S:g} s; another "
            "program may hold this socket, or the VMM is stopped"
        )
    except BaseException:
        connection.close()
        raise


def _connect_abstract(address: str, pid: int) -> socket.socket:
    """Connect to `@name`: either its plain length, or padded with NULs as by QEMU's tight=off."""
    name = b"\0" + os.fsencode(address[1:])
    own = [one for one in listening(pid) if one.name == name or one.name == name.ljust(108, b"\0")]
    if not own:
        raise _not_its_own(address, pid)
    connection = connected(own[0].name)
    # Unlike a file, a name can be bound again: check afterwards that it was the process's all the time.
    if own[0].inode not in {one.inode for one in listening(pid)}:
        connection.close()
        raise _not_its_own(address, pid)
    return connection


async def _connect_tcp(address: str, pid: int) -> socket.socket:
    """Connect to the port of `host:port`, if the process listens at it, without resolving the host."""
    port = address.rpartition(":")[2]
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 1 << 16):
        raise VmError(f"{escape_for_terminal(address)}: neither a path nor host:port")
    own = _tcp_listener(int(port), pid)
    if own is None:
        raise _not_its_own(address, pid)
    place = _LOOPBACK.get(own.address, own.address)
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (place, own.port))
        if _tcp_listener(int(port), pid) != own:
            raise _not_its_own(address, pid)
    except BaseException:
        connection.close()
        raise
    return connection


def _tcp_listener(port: int, pid: int) -> TcpListener | None:
    """Return the process's listening socket of this TCP port, or None. Raises VmError, OSError."""
    for listener in sock_diag.tcp_listeners():
        if listener.port == port and descriptors.has_socket("/", pid, listener.inode):
            return listener
    return None
