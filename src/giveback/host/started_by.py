"""What has started a process, for a person who wants to change its command line.

Source: systemd.unit(5); Linux Documentation/admin-guide/cgroup-v2.rst (/proc/PID/cgroup), proc_pid_stat(5).
"""

from __future__ import annotations

import re

from giveback.host.procs import read_process
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

_SERVICE = re.compile(rb"[A-Za-z0-9:_.@\\-]{1,200}\.service")


def started_by(root: str, pid: int) -> str:
    """Return the systemd unit of a process, else the program that has started it; '' if neither is known.

    The text is not safe for a terminal.
    """
    unit = unit_of(_read(root, f"/proc/{pid}/cgroup"))
    if unit:
        return f"unit {unit} (systemctl cat {unit})"
    parent = parent_of(_read(root, f"/proc/{pid}/stat"))
    process = read_process(root, parent) if parent > 1 else None
    name = (process.executable or process.program) if process else ""
    return f"{name} (pid {parent})" if name else ""


def unit_of(cgroups: bytes) -> str:
    """Return the innermost service of /proc/PID/cgroup, or ''. A user's own manager is not one."""
    for line in cgroups.splitlines():
        controllers, _, path = line.partition(b":")[2].partition(b":")
        if controllers not in (b"", b"name=systemd"):
            continue
        for part in reversed(path.split(b"/")):
            if _SERVICE.fullmatch(part):
                return "" if part.startswith(b"user@") else part.decode("ascii")
    return ""


def parent_of(stat: bytes) -> int:
    """Return the parent's PID from /proc/PID/stat, or 0. The name in it may have any bytes."""
    words = stat.rpartition(b")")[2].split()
    is_number = len(words) > 1 and words[1].isdigit() and len(words[1]) < 10
    return int(words[1]) if is_number else 0


def _read(root: str, path: str) -> bytes:
    try:
        return files.read(root, path, 16 << 10)
    except KernelFileError:
        return b""
