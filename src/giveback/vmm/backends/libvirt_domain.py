"""Verify that a process is the QEMU of a domain: a command line may name any domain of any libvirtd.

libvirt itself binds the socket of a domain's monitor, in a folder with the domain's ID in its name, and
passes it to QEMU. Below a `libvirt` folder of root only the system's libvirtd can create such a folder, and
below a user's only that user. Source: qemuDomainSetPrivatePaths(), qemuMonitorOpen() and
virDomainDefGetShortName() of libvirt.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from giveback.errors import VmError
from giveback.host.own_root import open_within
from giveback.host.owners import read_uid
from giveback.host.sockets import sock_diag
from giveback.vmm.clients import owned
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

_MONITOR = re.compile(
    rb"(/.*/libvirt|/libvirt)/qemu/(?:lib/)?domain-(\d{1,9})-[^/]*/monitor\.sock", re.DOTALL
)
_SESSION = "qemu:///session"


@contextlib.contextmanager
def reachable_uri(uri: str, pid: int | None) -> Iterator[str]:
    """Yield a URI of which a session's socket cannot be replaced by another user's within the context.

    Raises VmError if the session's socket does not belong to the user of process `pid`.
    """
    path = parse_qs(urlsplit(uri).query).get("socket", [""])[0]
    if pid is None or not uri.startswith(_SESSION) or not path:
        yield uri
        return
    try:
        place = open_within("/", os.getpid(), path)
    except (OSError, ValueError) as error:
        why = f"{escape_for_terminal(path)}: {error}; is libvirtd running?"
        raise VmError(why) from error
    try:
        status = os.fstat(place)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != read_uid("/", pid):
            raise VmError(
                f"{escape_for_terminal(path)}: not a socket of the user who runs process {pid}"
            )
        yield f"{_SESSION}?socket=/proc/self/fd/{place}"
    finally:
        os.close(place)


def runs_domain(pid: int, domain_id: int, uri: str) -> bool:
    """Tell whether the process has the monitor of the domain with this ID.

    Raises VmError if its descriptors cannot be read.
    """
    owner = read_uid("/", pid) if uri.startswith(_SESSION) else 0
    try:
        listening = owned.listening(pid)
    except OSError as error:
        raise VmError(f"/proc/{pid}/fd: {error.strerror}; run as root") from error
    return any(
        one.file is not None and _is_monitor(one.name.rstrip(b"\0"), one.file, domain_id, owner)
        for one in listening
    )


def _is_monitor(name: bytes, file: sock_diag.FileId, domain_id: int, owner: int | None) -> bool:
    match = _MONITOR.fullmatch(name)
    if match is None or int(match[2]) != domain_id:
        return False
    try:
        found, folder = os.stat(name), os.stat(match[1])  # noqa: PTH116  # bytes
    except (OSError, ValueError):
        return False
    # Compare inodes only: device numbers of some file systems differ inside the kernel. The folder's owner
    # excludes a stranger's file system.
    return sock_diag.FileId.of(found).inode == file.inode and folder.st_uid == owner
