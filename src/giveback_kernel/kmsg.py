"""/dev/kmsg: write one line to the kernel log, and search for lines that the kernel wrote at boot.

Source: Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import errno
import os

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, quoted, text
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/dev/kmsg"
NOTICE = 5
INFO = 6
# The kernel refuses a write above LOG_LINE_MAX, about 976 bytes on older kernels.
LINE_LIMIT_BYTES = 900
RECORD_LIMIT_BYTES = 8192
RECORDS_LIMIT = 50_000
_MATCHES_LIMIT = 200
_PRIORITIES = 8


class KmsgRecord(Record):
    """One message. `priority` is facility * 8 + level; `timestamp_us` counts from boot."""

    priority: int
    sequence: int
    timestamp_us: int
    message: str


class KernelLog(Record):
    """The result of a search of the kernel log.

    `refused` is why the log could not be read (None: it could). `complete` is False if the oldest
    messages are already overwritten, so that a line's absence proves nothing.
    """

    messages: tuple[str, ...]
    complete: bool
    refused: str | None = None


def parse(data: bytes) -> KmsgRecord:
    """Parse one record: `priority,sequence,timestamp,flags;message` and its continuation lines.

    Raises KernelFileError if it is not one.
    """
    head, separator, body = data.partition(b";")
    words = head.split(b",")
    if not separator or len(words) < 4:
        raise KernelFileError(PATH, f"not a record of the kernel log: {quoted(data)}")
    return KmsgRecord(
        number(PATH, "priority", words[0]),
        number(PATH, "sequence", words[1]),
        number(PATH, "timestamp", words[2]),
        text(body.partition(b"\n")[0]),
    )


def line(message: str, priority: int = INFO) -> bytes:
    """Return the bytes for /dev/kmsg: one bounded line of printable ASCII with its priority.

    Control characters are removed, so that no message can forge a second line. Characters outside
    ASCII are escaped.
    """
    printable = "".join([character for character in message if character >= " "])
    escaped = printable.replace("\x7f", "").encode("ascii", "backslashreplace")
    prefix = b"<%d>" % min(7, max(0, priority))
    return prefix + escaped[: LINE_LIMIT_BYTES - len(prefix) - 1] + b"\n"


def write_line(root: str, message: str, priority: int = INFO) -> bool:
    """Write one line to the kernel log; return False if the log did not take it. Never raises."""
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(files.under(root, PATH), flags)
    except OSError:
        return False
    try:
        os.write(fd, line(message, priority))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def search(root: str, needles: tuple[str, ...]) -> KernelLog:
    """Return the kernel's own messages that contain any of `needles`, oldest first.

    Messages of programs are left out: the kernel marks them with a facility other than its own, 0.
    Holds one record in memory at a time. Never raises: `refused` has the reason of a failure.
    """
    found: list[str] = []
    complete = None
    try:
        for data in _records(root):
            try:
                record = parse(data)
            except KernelFileError:
                continue
            if complete is None:
                complete = record.sequence == 0
            wanted = any(needle in record.message for needle in needles)
            if wanted and record.priority < _PRIORITIES and len(found) < _MATCHES_LIMIT:
                found.append(record.message)
    except OSError as error:
        return KernelLog(tuple(found), False, f"{PATH}: {os.strerror(error.errno or 0)}")
    return KernelLog(tuple(found), bool(complete))


def _records(root: str) -> Iterator[bytes]:
    """Yield each record's first line. A device read gives one record, a plain file any bytes."""
    fd = os.open(files.under(root, PATH), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        rest = b""
        for _ in range(RECORDS_LIMIT):
            try:
                chunk = os.read(fd, RECORD_LIMIT_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                # EPIPE: this record was overwritten during the read; the next read continues after
                # it.
                if error.errno == errno.EPIPE:
                    continue
                raise
            if not chunk:
                break
            *whole, rest = (rest + chunk).split(b"\n")
            rest = rest[-RECORD_LIMIT_BYTES:]
            for one in whole:
                if not one.startswith(b" "):
                    yield one
    finally:
        os.close(fd)
