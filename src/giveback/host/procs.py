"""Read the host's processes: their command lines and the programs that they run.

A process may end while it is read; it is then left out, and no error is raised.
Source: Linux Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from giveback.errors import VmError
from giveback.host.own_root import open_within
from giveback_kernel.files import under
from giveback_kernel.process_start import parse_start_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_LINE_LIMIT_BYTES = 256 << 10
"""A longer command line is cut; those of QEMU under libvirt are below 20 KiB."""
TOO_LONG = (
    f"its command line is too long: only the first {COMMAND_LINE_LIMIT_BYTES >> 10} KiB are read"
)


@dataclass(frozen=True, slots=True)
class Process:
    """A process with its command line. `argv` is empty for kernel threads; argv[0] may be any text.

    `exe` is the path of its executable; for another user's process only the 15 bytes of its name that
    every user may read; '' if there is none.
    """

    pid: int
    argv: tuple[str, ...]
    exe: str = ""
    cut: bool = False
    """Whether the command line is longer than COMMAND_LINE_LIMIT_BYTES; `argv` has the complete words."""

    @property
    def program(self) -> str:
        """The last component of argv[0], or ''."""
        return self.argv[0].rsplit("/", 1)[-1] if self.argv else ""

    @property
    def executable(self) -> str:
        """The name of the executable file, or ''. An update may delete the file of a running process."""
        return self.exe.removesuffix(" (deleted)").rsplit("/", 1)[-1]


def parse_cmdline(text: bytes) -> tuple[str, ...]:
    """Split `/proc/PID/cmdline`; bytes that are not UTF-8 become surrogates."""
    if not text:
        return ()
    words = text.removesuffix(b"\0").split(b"\0")
    return tuple(os.fsdecode(word) for word in words)


def read_process(root: str, pid: int) -> Process | None:
    """Read one process; None if it has ended or may not be read."""
    text = _read_bounded(under(root, f"/proc/{pid}/cmdline"), COMMAND_LINE_LIMIT_BYTES + 1)
    if text is None:
        return None
    is_cut = len(text) > COMMAND_LINE_LIMIT_BYTES
    if is_cut:
        # Drop an incomplete last word: a part of it may have another meaning.
        text = text[:COMMAND_LINE_LIMIT_BYTES]
        text = text[: text.rfind(b"\0") + 1] or text
    return Process(pid, parse_cmdline(text), _exe(root, pid), is_cut)


def _exe(root: str, pid: int) -> str:
    try:
        return os.readlink(under(root, f"/proc/{pid}/exe"))  # noqa: PTH115
    except PermissionError:
        name = _read_bounded(under(root, f"/proc/{pid}/comm"), 64)
        return os.fsdecode(name.rstrip(b"\n")) if name else ""
    except OSError:
        # A kernel thread, or a process that has ended.
        return ""


def pids(root: str = "/") -> list[int]:
    """Return the PIDs of all processes, sorted. Raises VmError if /proc cannot be listed."""
    try:
        with os.scandir(under(root, "/proc")) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise VmError(f"{under(root, '/proc')}: {error.strerror}; is procfs mounted?") from error
    return sorted(int(name) for name in names if name.isdigit())


def processes(root: str = "/") -> Iterator[Process]:
    """Yield every process that has a command line, ordered by PID."""
    for pid in pids(root):
        process = read_process(root, pid)
        if process is not None and process.argv:
            yield process


def status_bytes(root: str, pid: int) -> dict[str, int]:
    """Return the `kB` lines of `/proc/PID/status` in bytes (VmHWM, VmRSS, VmPTE, …); {} if it has ended.

    Every user may read this file, also if smaps may not be read.
    """
    text = _read_bounded(under(root, f"/proc/{pid}/status"), 64 << 10)
    return {} if text is None else parse_status(text)


def parse_status(text: bytes) -> dict[str, int]:
    """Parse the sizes in `/proc/PID/status` into bytes; other lines are left out."""
    sizes = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == b"kB" and words[1].isdigit() and len(words[1]) < 16:
            sizes[words[0].rstrip(b":").decode("ascii", "replace")] = int(words[1]) << 10
    return sizes


def is_stopped(root: str, pid: int) -> bool:
    """Tell whether the process is stopped (SIGSTOP), so that it answers nothing. Source: proc_pid_stat(5)."""
    stat = _read_bounded(under(root, f"/proc/{pid}/stat"), 4096) or b""
    return stat.rpartition(b")")[2].split()[:1] == [b"T"]


def start_ticks(root: str, pid: int) -> int | None:
    """Return the process's start in clock ticks since boot, which detects a reused PID; None if it ended."""
    text = _read_bounded(under(root, f"/proc/{pid}/stat"), 4096)
    return None if text is None else parse_start_ticks(text)


def own_path(root: str, pid: int, path: str) -> str:
    """Convert a path as the process sees it to one that the host can use, by its root or working folder.

    A VMM in a container or a chroot has paths of its own view of the file system.
    """
    base = f"/proc/{pid}/root" if path.startswith("/") else f"/proc/{pid}/cwd/"
    return under(root, base) + path


_PLACE = os.O_PATH | os.O_CLOEXEC
_OF_THE_OPENER = ("/dev/", "/proc/")
"""Folders with files whose meaning depends on the opener: /dev/stdin, /proc/self/fd/3, /proc/thread-self."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,6})|/dev/(stdin)", re.ASCII)


def read_own_file(root: str, pid: int, path: str, limit_bytes: int) -> bytes | None:
    """Read a file that the process has on its command line as `path`; None if it cannot be read whole.

    A stranger may control the path: it cannot leave the process's root, and only a regular file is
    opened, because opening a device or a pipe may have effects. A file that was passed as a descriptor is
    read if the process still has it open.
    """
    inherited = _DESCRIPTOR.fullmatch(path)
    if inherited:
        open_it = partial(os.open, under(root, f"/proc/{pid}/fd/{inherited[1] or 0}"), _PLACE)
    elif path.startswith(_OF_THE_OPENER) or "\0" in path:
        return None
    else:
        open_it = partial(open_within, root, pid, path)
    try:
        place = open_it()
    except (OSError, ValueError, VmError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        data = _read_bounded(f"/proc/self/fd/{place}", limit_bytes + 1)
    finally:
        os.close(place)
    return data if data is not None and len(data) <= limit_bytes else None


def _read_bounded(path: str, limit_bytes: int) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        chunks = []
        left = limit_bytes
        while left > 0:
            chunk = os.read(fd, min(left, 65536))
            if not chunk:
                break
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    except OSError:
        return None
    finally:
        os.close(fd)
