"""/proc/swaps: swap areas, and which of them are compressed memory.

Source: swap_show() in mm/swapfile.c.
"""

from __future__ import annotations

import errno

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number, quoted, signed, text, unescaped
from giveback_kernel.record import Record

PATH = "/proc/swaps"
_HEADING = b"Filename"


class SwapArea(Record):
    """One swap area. `kind` is partition or file."""

    path: str
    kind: str
    size_bytes: int
    used_bytes: int
    priority: int

    @property
    def is_zram(self) -> bool:
        """Whether it is compressed memory, which takes guest memory again, though less than it frees."""
        return self.path.rpartition("/")[2].startswith("zram")


class Swaps(Record):
    """All swap areas; empty if there is no swap."""

    areas: tuple[SwapArea, ...] = ()


def parse(data: bytes) -> Swaps:
    """Parse the text of /proc/swaps. Raises KernelFileError if a line is not a swap area."""
    if not data.startswith(_HEADING):
        raise KernelFileError(PATH, f"does not start with a heading: {quoted(data)}")
    return Swaps(tuple([_area(line) for line in data.split(b"\n")[1:-1]]))


def read_swaps(root: str = "/") -> Swaps:
    """Read /proc/swaps under `root`; empty if the kernel has no swap. Raises KernelFileError."""
    try:
        data = files.read(root, PATH)
    except KernelFileError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Swaps()
        raise
    return parse(data)


def _area(line: bytes) -> SwapArea:
    words = line.split()
    if len(words) != 5:
        raise KernelFileError(PATH, f"not a swap area: {quoted(line)}")
    return SwapArea(
        text(unescaped(words[0])),
        text(words[1]),
        number(PATH, "size", words[2], BYTES_LIMIT >> 10) << 10,
        number(PATH, "used", words[3], BYTES_LIMIT >> 10) << 10,
        signed(PATH, "priority", words[4], 1 << 31),
    )


def may_swap(root: str = "/") -> bool:
    """Return whether programs could be swapped out; True if it is unknown."""
    try:
        return bool(read_swaps(root).areas)
    except KernelFileError:
        return True
