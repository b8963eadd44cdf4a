"""Find the libvirtd that holds a domain: the system's, or that of a user's session.

A session's domains have their files below the user's configuration (`…/libvirt/qemu/lib/domain-1-a`), the
system's below /var/lib/libvirt/qemu. Source: virQEMUDriverConfigNew() in libvirt's src/qemu/qemu_conf.c;
virGetUserRuntimeDirectory() (XDG_RUNTIME_DIR, else ~/.cache) for the sockets.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.files import under

if TYPE_CHECKING:
    from giveback.host.procs import Process

SYSTEM_URI = "qemu:///system"
SESSION_URI = "qemu:///session"
_OF_SESSION = "/libvirt/qemu/lib/domain-"
_SOCKETS = ("virtqemud-sock", "libvirt-sock")
"""Sockets of the daemon for QEMU alone, in newer versions of libvirt, and of the one for all drivers."""
_TABLE_LIMIT_BYTES = 32 << 20
_ACCEPTING = b"00010000"
"""__SO_ACCEPTCON in the flags of /proc/net/unix."""


def session_uri(root: str, process: Process) -> str:
    """Return the URI of the domain's session; '' for a domain of the system's libvirtd."""
    if not any(_OF_SESSION in word for word in process.argv):
        return ""
    try:
        owner = os.stat(under(root, f"/proc/{process.pid}")).st_uid  # noqa: PTH116
    except OSError:
        return SESSION_URI
    found = _socket(root, owner)
    if not found:
        return SESSION_URI
    from urllib.parse import quote  # noqa: PLC0415

    return f"{SESSION_URI}?socket={quote(found)}"


def _socket(root: str, owner: int) -> str:
    """Return the path of a listening libvirtd socket of this user, in any runtime folder; '' if none."""
    found: dict[str, str] = {}
    for path in _listening(root):
        folder, _, name = path.rpartition("/")
        if name in _SOCKETS and folder.endswith("/libvirt"):
            try:
                if os.stat(under(root, path)).st_uid == owner:  # noqa: PTH116
                    found.setdefault(name, path)
            except (OSError, ValueError):
                continue
    return next((found[name] for name in _SOCKETS if name in found), "")


def _listening(root: str) -> list[str]:
    try:
        table = files.read(root, "/proc/net/unix", _TABLE_LIMIT_BYTES)
    except KernelFileError:
        return []
    rows = (line.split(None, 7) for line in table.splitlines() if line.endswith(b"-sock"))
    return [os.fsdecode(row[7]) for row in rows if len(row) == 8 and row[3] == _ACCEPTING]
