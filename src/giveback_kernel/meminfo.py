"""/proc/meminfo: where the guest's memory is, in bytes.

Source: fs/proc/meminfo.c and Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number, quoted
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "/proc/meminfo"


class MemInfo(Record):
    """The fields of /proc/meminfo that decide anything; None where the kernel does not print one.

    `cached_bytes` includes shared memory, which cannot be dropped; `file_bytes` does not.
    """

    mem_total_bytes: int
    mem_free_bytes: int
    mem_available_bytes: int
    buffers_bytes: int
    cached_bytes: int
    active_anon_bytes: int
    inactive_anon_bytes: int
    active_file_bytes: int
    inactive_file_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    dirty_bytes: int
    writeback_bytes: int
    anon_pages_bytes: int
    mapped_bytes: int
    shmem_bytes: int
    slab_bytes: int
    s_reclaimable_bytes: int
    s_unreclaim_bytes: int
    unevictable_bytes: int | None = None
    mlocked_bytes: int | None = None
    kernel_stack_bytes: int | None = None
    page_tables_bytes: int | None = None
    percpu_bytes: int | None = None
    anon_huge_pages_bytes: int | None = None
    hugepages_total: int | None = None
    hugepages_free: int | None = None
    hugepages_rsvd: int | None = None
    hugepages_surp: int | None = None
    hugepagesize_bytes: int | None = None
    hugetlb_bytes: int | None = None

    @property
    def non_free_bytes(self) -> int:
        """MemTotal - MemFree: what the guest uses, cache included."""
        return self.mem_total_bytes - self.mem_free_bytes

    @property
    def file_bytes(self) -> int:
        """The page cache that reclaim can reach: the two file LRU lists, without shared memory."""
        return self.active_file_bytes + self.inactive_file_bytes


# Kernel name -> (field, has the unit kB).
_FIELDS = {
    b"MemTotal": ("mem_total_bytes", True),
    b"MemFree": ("mem_free_bytes", True),
    b"MemAvailable": ("mem_available_bytes", True),
    b"Buffers": ("buffers_bytes", True),
    b"Cached": ("cached_bytes", True),
    b"Active(anon)": ("active_anon_bytes", True),
    b"Inactive(anon)": ("inactive_anon_bytes", True),
    b"Active(file)": ("active_file_bytes", True),
    b"Inactive(file)": ("inactive_file_bytes", True),
    b"SwapTotal": ("swap_total_bytes", True),
    b"SwapFree": ("swap_free_bytes", True),
    b"Dirty": ("dirty_bytes", True),
    b"Writeback": ("writeback_bytes", True),
    b"AnonPages": ("anon_pages_bytes", True),
    b"Mapped": ("mapped_bytes", True),
    b"Shmem": ("shmem_bytes", True),
    b"Slab": ("slab_bytes", True),
    b"SReclaimable": ("s_reclaimable_bytes", True),
    b"SUnreclaim": ("s_unreclaim_bytes", True),
    b"Unevictable": ("unevictable_bytes", True),
    b"Mlocked": ("mlocked_bytes", True),
    b"KernelStack": ("kernel_stack_bytes", True),
    b"PageTables": ("page_tables_bytes", True),
    b"Percpu": ("percpu_bytes", True),
    b"AnonHugePages": ("anon_huge_pages_bytes", True),
    b"HugePages_Total": ("hugepages_total", False),
    b"HugePages_Free": ("hugepages_free", False),
    b"HugePages_Rsvd": ("hugepages_rsvd", False),
    b"HugePages_Surp": ("hugepages_surp", False),
    b"Hugepagesize": ("hugepagesize_bytes", True),
    b"Hugetlb": ("hugetlb_bytes", True),
}
# Every kernel since 4.0 prints these; dicts keep their order, and SUnreclaim is the last of them.
_REQUIRED = tuple(_FIELDS)[: tuple(_FIELDS).index(b"SUnreclaim") + 1]


def parse(data: bytes) -> MemInfo:
    """Parse the text of /proc/meminfo.

    Raises KernelFileError where a field every kernel prints is missing, or a value is nonsense.
    """
    values: dict[str, Any] = {}
    for line in data.split(b"\n")[:-1]:
        name, _, rest = line.partition(b":")
        known = _FIELDS.get(name)
        if known is not None:
            field, in_kib = known
            values[field] = _kib_in_bytes(name, rest) if in_kib else _plain(name, rest)
    for name in _REQUIRED:
        if _FIELDS[name][0] not in values:
            raise KernelFileError(PATH, f"{name.decode()} is missing")
    info = MemInfo(**values)
    if info.mem_total_bytes == 0 or info.mem_free_bytes > info.mem_total_bytes:
        raise KernelFileError(
            PATH,
            f"MemFree {info.mem_free_bytes} of MemTotal {info.mem_total_bytes} bytes is absurd",
        )
    return info


def read_meminfo(root: str = "/") -> MemInfo:
    """Read /proc/meminfo under `root`. Raises KernelFileError."""
    return parse(files.read(root, PATH))


def _kib_in_bytes(name: bytes, rest: bytes) -> int:
    tokens = rest.split()
    if len(tokens) != 2 or tokens[1] != b"kB":
        raise KernelFileError(PATH, f"{name.decode()} is not an amount in kB: {quoted(rest)}")
    return number(PATH, name.decode(), tokens[0], BYTES_LIMIT >> 10) << 10


def _plain(name: bytes, rest: bytes) -> int:
    return number(PATH, name.decode(), rest.strip(), BYTES_LIMIT)
