"""Verify that a process is the QEMU of a domain: a command line may name any domain of any libvirtd.

libvirt itself binds the socket of a domain's monitor, in a folder with the domain's ID in its name, and
passes it to QEMU. Below a `libvirt` folder of root only the system's libvirtd can create such a folder, and
below a user's only that user. Source: qemuDomainSetPrivatePaths(), qemuMonitorOpen() and
virDomainDefGetShortName() of libvirt.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from giveback.errors import VmError
from giveback.host.own_root import PinnedFile, open_within
from giveback.host.owners import read_uid
from giveback.host.readers import plain, pool
from giveback.host.readers.pool import SHORT
from giveback.host.sockets import sock_diag
from giveback.vmm.clients import owned
from giveback_kernel import files
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.mounts import read_mounts

_MONITOR = re.compile(
    rb"(/.*/libvirt|/libvirt)/qemu/(?:lib/)?domain-(\d{1,9})-[^/]*/monitor\.sock", re.DOTALL
)
_SESSION = "qemu:///session"
_FUSE = "fuse"
_FDINFO_LIMIT_BYTES = 4096


@dataclass(slots=True)
class Claim:
    """The domains that a process is proven to run. Close it after libvirt has answered."""

    uri: str
    """libvirt's URI. A session's socket in it cannot be replaced while the claim is open."""
    ids: frozenset[int] | None = None
    """IDs of the domains whose monitor the process has; None if the user named the domain."""
    socket: PinnedFile | None = None

    def close(self) -> None:
        """Release the session's socket."""
        if self.socket is not None:
            self.socket.close()


async def claim(uri: str, pid: int | None) -> Claim:
    """Return the domains that the process `pid` runs at this URI; `pid` is None if the user named the domain.

    A reader process opens the paths: each may lead to a stranger's file system that never answers. Raises
    VmError if the session's socket does not belong to the user of the process, or if it cannot be read.
    """
    if pid is None:
        return Claim(uri)
    found = await pool.shared().call(read_claim, uri, pid, pid=pid, limits=SHORT)
    pinned: PinnedFile | None = None
    ids = found
    match found:
        case (PinnedFile() as place, ids):
            pinned, uri = place, f"{_SESSION}?socket={place.path}"
    try:
        return Claim(uri, frozenset(plain.unpack(tuple[int, ...], ids)), pinned)
    except ValueError as error:
        if pinned is not None:
            pinned.close()
        raise VmError(
            f"process {pid}: its reader sent malformed IDs of domains: {error}"
        ) from error


def read_claim(uri: str, pid: int) -> tuple[PinnedFile, tuple[int, ...]] | tuple[int, ...]:
    """Return the session's socket, if the URI names one, and the IDs of the domains that a process runs.

    Runs in a reader process. Raises VmError.
    """
    is_session = uri.startswith(_SESSION)
    owner = read_uid("/", pid) if is_session else 0
    path = parse_qs(urlsplit(uri).query).get("socket", [""])[0] if is_session else ""
    try:
        listening = tuple(owned.listening(pid))
    except OSError as error:
        raise VmError(f"/proc/{pid}/fd: {error.strerror}; run as root") from error
    named = (_domain_of(one.name.rstrip(b"\0"), one.file, owner) for one in listening if one.file)
    ids = tuple(domain_id for domain_id in named if domain_id is not None)
    return (_pinned(path, pid, owner), ids) if path else ids


def _pinned(path: str, pid: int, owner: int | None) -> PinnedFile:
    """Return the session's socket. Raises VmError if it does not belong to the user `owner`."""
    shown = escape_for_terminal(path)
    try:
        place = PinnedFile(open_within("/", os.getpid(), path))
    except (OSError, ValueError) as error:
        raise VmError(f"{shown}: {error}; is libvirtd running?") from error
    try:
        status = os.fstat(place.fileno())
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != owner:
            raise VmError(f"{shown}: not a socket of the user who runs process {pid}")
        if _is_on_fuse(place.fileno()):
            # libvirt connects in one of our threads, which could not be ended if it hung.
            raise VmError(
                f"{shown}: not connected, because it is on FUSE, where any user's program may answer"
            )
    except BaseException:
        place.close()
        raise
    return place


def _is_on_fuse(fd: int) -> bool:
    rows = files.read("/", f"/proc/self/fdinfo/{fd}", _FDINFO_LIMIT_BYTES).split(b"\n")
    mount_ids = [int(row.split()[1]) for row in rows if row.startswith(b"mnt_id:")]
    mounts = read_mounts(fs_types=(_FUSE.encode(),))
    return any(one.mount_id in mount_ids and one.fs_type.startswith(_FUSE) for one in mounts)


def _domain_of(name: bytes, file: sock_diag.FileId, owner: int | None) -> int | None:
    """Return the ID of the domain whose monitor this socket is, or None."""
    match = _MONITOR.fullmatch(name)
    if match is None:
        return None
    try:
        found, folder = os.stat(name), os.stat(match[1])  # noqa: PTH116  # bytes
    except (OSError, ValueError):
        return None
    # Compare inodes only: device numbers of some file systems differ inside the kernel. The folder's owner
    # excludes a stranger's file system.
    is_own = sock_diag.FileId.of(found).inode == file.inode and folder.st_uid == owner
    return int(match[2]) if is_own else None
