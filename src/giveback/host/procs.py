"""Processes of the host, by their command line and the program that they run.

Processes vanish while they are read; one that does is left out, never an error.
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
"""A command line longer than this is cut; QEMU's under libvirt are below 20 KiB."""
TOO_LONG = (
    f"its command line is too long: only the first {COMMAND_LINE_LIMIT_BYTES >> 10} KiB are read"
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process as its command line tells it. `argv` is empty for kernel threads.

    `exe` is the path of what it runs, or the 15 bytes of its name that everybody may see where that is
    another user's; '' for none. argv[0] is any text.
    """

    pid: int
    argv: tuple[str, ...]
    exe: str = ""
    cut: bool = False
    """Whether its command line is longer than COMMAND_LINE_LIMIT_BYTES; the whole words before are here."""

    @property
    def program(self) -> str:
        """The last component of argv[0], or ''."""
        return self.argv[0].rsplit("/", 1)[-1] if self.argv else ""

    @property
    def executable(self) -> str:
        """The name of the file that runs, or ''. An update deletes the file and leaves the process."""
        return self.exe.removesuffix(" (deleted)").rsplit("/", 1)[-1]


def parse_cmdline(text: bytes) -> tuple[str, ...]:
    """Split `/proc/PID/cmdline`; bytes that are no UTF-8 survive as surrogates."""
    if not text:
        return ()
    words = text.removesuffix(b"\0").split(b"\0")
    return tuple(os.fsdecode(word) for word in words)


def read_process(root: str, pid: int) -> Process | None:
    """One process, or None where it has gone or hides from us."""
    text = _read_bounded(under(root, f"/proc/{pid}/cmdline"), COMMAND_LINE_LIMIT_BYTES + 1)
    if text is None:
        return None
    is_cut = len(text) > COMMAND_LINE_LIMIT_BYTES
    if is_cut:
        # Half a word may say something else than the whole.
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
    """Every process's PID, in order. Raises VmError where /proc cannot be listed."""
    try:
        with os.scandir(under(root, "/proc")) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise VmError(f"{under(root, '/proc')}: {error.strerror}; is procfs mounted?") from error
    return sorted(int(name) for name in names if name.isdigit())


def processes(root: str = "/") -> Iterator[Process]:
    """Every process with a command line, in order of PID."""
    for pid in pids(root):
        process = read_process(root, pid)
        if process is not None and process.argv:
            yield process


def status_bytes(root: str, pid: int) -> dict[str, int]:
    """The `kB` lines of `/proc/PID/status` in bytes (VmHWM, VmRSS, VmPTE, …); {} if it has gone.

    Readable without any right over the process: what can still be shown when smaps cannot.
    """
    text = _read_bounded(under(root, f"/proc/{pid}/status"), 64 << 10)
    return {} if text is None else parse_status(text)


def parse_status(text: bytes) -> dict[str, int]:
    """The sizes in `/proc/PID/status`, in bytes; lines that are no size are left out."""
    sizes = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == b"kB" and words[1].isdigit() and len(words[1]) < 16:
            sizes[words[0].rstrip(b":").decode("ascii", "replace")] = int(words[1]) << 10
    return sizes


def is_stopped(root: str, pid: int) -> bool:
    """Whether the process was stopped (SIGSTOP), so that nothing of it answers. Source: proc_pid_stat(5)."""
    stat = _read_bounded(under(root, f"/proc/{pid}/stat"), 4096) or b""
    return stat.rpartition(b")")[2].split()[:1] == [b"T"]


def start_ticks(root: str, pid: int) -> int | None:
    """When the process started, in clock ticks since boot: tells a reused PID. None if gone."""
    text = _read_bounded(under(root, f"/proc/{pid}/stat"), 4096)
    return None if text is None else parse_start_ticks(text)


def own_path(root: str, pid: int, path: str) -> str:
    """`path` as the process sees it, reachable from here: its root and its working directory.

    A VMM in a container or a chroot names its sockets in its own view of the file system.
    """
    base = f"/proc/{pid}/root" if path.startswith("/") else f"/proc/{pid}/cwd/"
    return under(root, base) + path


_PLACE = os.O_PATH | os.O_CLOEXEC
_OURS = ("/dev/", "/proc/")
"""Places that lead to something of whoever opens them: /dev/stdin, /proc/self/fd/3, /proc/thread-self."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,6})|/dev/(stdin)", re.ASCII)


def read_own_file(root: str, pid: int, path: str, limit_bytes: int) -> bytes | None:
    """A file that the process was given by `path`, as it sees it; None where it cannot be read whole.

    The path is a stranger's: it leads nowhere out of the process's root, and nothing but a regular file is
    opened, for a device or a pipe may act. One that was handed over as a descriptor is read where the
    process still has it.
    """
    handed = _DESCRIPTOR.fullmatch(path)
    if handed:
        open_it = partial(os.open, under(root, f"/proc/{pid}/fd/{handed[1] or 0}"), _PLACE)
    elif path.startswith(_OURS) or "\0" in path:
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
