"""mm_stat of a zram device: how much it holds, and how much memory that takes compressed.

Swapped pages in zram stay in the guest's memory, so swapping there frees only the difference.
Source: Documentation/admin-guide/blockdev/zram.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number, quoted
from giveback_kernel.record import Record


class ZramUse(Record):
    """Bytes that were swapped to a device, and the bytes of memory that they take there."""

    orig_data_bytes: int
    mem_used_bytes: int


def parse(data: bytes, path: str = "mm_stat") -> ZramUse:
    """Parse the text of mm_stat. Raises KernelFileError if it is not numbers."""
    words = data.split()
    if len(words) < 3:
        raise KernelFileError(path, f"not the numbers of a zram device: {quoted(data)}")
    return ZramUse(
        number(path, "orig_data_size", words[0], BYTES_LIMIT),
        number(path, "mem_used_total", words[2], BYTES_LIMIT),
    )


def read_use(root: str, device: str) -> ZramUse:
    """Read mm_stat of `device` (`zram0`) under `root`. Raises KernelFileError."""
    path = f"/sys/block/{device}/mm_stat"
    return parse(files.read(root, path, 4096), path)
