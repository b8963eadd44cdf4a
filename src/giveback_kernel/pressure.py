"""/proc/pressure/{cpu,memory,io}: the percentage of time in which tasks stalled.

Without PSI in the kernel the files are missing. If it is off (psi=0, or
CONFIG_PSI_DEFAULT_DISABLED), reading one fails with EOPNOTSUPP. Source:
Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import errno

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, percent, quoted
from giveback_kernel.record import Record

RESOURCES = ("cpu", "memory", "io")
_KEYS = (b"avg10", b"avg60", b"avg300", b"total")
_OFF = (errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP)


class Stall(Record):
    """Percent of the last 10, 60 and 300 seconds spent stalled, and the stalled time since boot."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


class Pressure(Record):
    """`some`: at least one task stalled. `full`: all were; None for cpu before Linux 5.13."""

    some: Stall
    full: Stall | None = None


def path_of(resource: str) -> str:
    """Return the pressure file of `cpu`, `memory` or `io`."""
    return f"/proc/pressure/{resource}"


def parse(data: bytes, path: str = "/proc/pressure") -> Pressure:
    """Parse the text of one pressure file.

    Raises KernelFileError if the `some` line is missing or a value is invalid.
    """
    stalls = {}
    for line in data.split(b"\n")[:-1]:
        kind, _, rest = line.partition(b" ")
        stalls[kind] = _stall(path, rest)
    if b"some" not in stalls:
        raise KernelFileError(path, "has no line 'some'")
    return Pressure(stalls[b"some"], stalls.get(b"full"))


def read_pressure(resource: str, root: str = "/") -> Pressure | None:
    """Read one pressure file under `root`; None if this kernel has no PSI or it is off.

    Raises KernelFileError for any other failure, and for invalid text.
    """
    path = path_of(resource)
    try:
        data = files.read(root, path)
    except KernelFileError as error:
        if error.errno in _OFF:
            return None
        raise
    return parse(data, path)


def pressure_or_none(resource: str, root: str = "/") -> Pressure | None:
    """Read one pressure file; return None if it is missing or cannot be read."""
    try:
        return read_pressure(resource, root)
    except KernelFileError:
        return None


def _stall(path: str, rest: bytes) -> Stall:
    values = {}
    for word in rest.split():
        key, _, token = word.partition(b"=")
        values[key] = token
    for key in _KEYS:
        if key not in values:
            raise KernelFileError(path, f"has no {key.decode()}: {quoted(rest)}")
    return Stall(
        percent(path, "avg10", values[b"avg10"]),
        percent(path, "avg60", values[b"avg60"]),
        percent(path, "avg300", values[b"avg300"]),
        number(path, "total", values[b"total"]),
    )
