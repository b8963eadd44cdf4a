"""/proc/meminfo: where the guest's memory is, in bytes.

Source: fs/proc/meminfo.c and Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number, quoted
from giveback_kernel.record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "/proc/meminfo"


class MemInfo(Record):
    """The fields of /proc/meminfo that decisions use; None if the kernel does not print one.

    `cached_bytes` includes shared memory, which cannot be dropped; `file_bytes` does not. `remarks`
    names impossible values, and their replacements.
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
    shmem_bytes: int
    slab_bytes: int
    s_reclaimable_bytes: int
    s_unreclaim_bytes: int
    kernel_stack_bytes: int | None = None
    page_tables_bytes: int | None = None
    percpu_bytes: int | None = None
    hugepages_total: int | None = None
    hugepages_free: int | None = None
    hugepagesize_bytes: int | None = None
    hugetlb_bytes: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def non_free_bytes(self) -> int:
        """MemTotal - MemFree: the memory that the guest uses, cache included."""
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
    b"Shmem": ("shmem_bytes", True),
    b"Slab": ("slab_bytes", True),
    b"SReclaimable": ("s_reclaimable_bytes", True),
    b"SUnreclaim": ("s_unreclaim_bytes", True),
    b"KernelStack": ("kernel_stack_bytes", True),
    b"PageTables": ("page_tables_bytes", True),
    b"Percpu": ("percpu_bytes", True),
    b"HugePages_Total": ("hugepages_total", False),
    b"HugePages_Free": ("hugepages_free", False),
    b"Hugepagesize": ("hugepagesize_bytes", True),
    b"Hugetlb": ("hugetlb_bytes", True),
}
# Every kernel since 4.0 prints these; dicts keep their order, and SUnreclaim is the last of them.
_REQUIRED = tuple(_FIELDS)[: tuple(_FIELDS).index(b"SUnreclaim") + 1]

_NAMES = {field: (name.decode(), in_kib) for name, (field, in_kib) in _FIELDS.items()}
# The values by which all others are judged.
_TRUSTED = frozenset((b"MemTotal", b"MemFree"))
# 3 %: the drift of per-CPU counters is far less, and a leak soon exceeds it.
_SLACK_DIVISOR = 32
# Parts of the memory in use that do not overlap.
_DISJOINT = (
    "anon_pages_bytes",
    "cached_bytes",
    "buffers_bytes",
    "slab_bytes",
    "kernel_stack_bytes",
    "page_tables_bytes",
    "percpu_bytes",
    "hugetlb_bytes",
)
_IN_USE = (
    *_DISJOINT[:-1],
    "active_anon_bytes",
    "inactive_anon_bytes",
    "dirty_bytes",
    "writeback_bytes",
    "shmem_bytes",
    "s_reclaimable_bytes",
    "s_unreclaim_bytes",
)
_PAGE_CACHE = frozenset(("cached_bytes", "buffers_bytes", "shmem_bytes"))
_LEAKS_INTO_AVAILABLE = frozenset(("inactive_file_bytes", "s_reclaimable_bytes"))


def parse(data: bytes) -> MemInfo:
    """Parse the text of /proc/meminfo. A counter below zero is 0, with a remark; see `plausible`.

    Raises KernelFileError if a field that every kernel prints is missing, or if a value is invalid.
    """
    values: dict[str, Any] = {}
    remarks = []
    for line in data.split(b"\n")[:-1]:
        name, _, rest = line.partition(b":")
        known = _FIELDS.get(name)
        if known is None:
            continue
        field, in_kib = known
        if in_kib and name not in _TRUSTED and _is_negative(rest):
            values[field] = 0
            remarks.append(f"{name.decode()} is negative: 0 assumed")
        else:
            values[field] = _kib_in_bytes(name, rest) if in_kib else _plain(name, rest)
    for name in _REQUIRED:
        if _FIELDS[name][0] not in values:
            raise KernelFileError(PATH, f"{name.decode()} is missing")
    info = MemInfo(**values, remarks=tuple(remarks))
    if info.mem_total_bytes == 0 or info.mem_free_bytes > info.mem_total_bytes:
        raise KernelFileError(
            PATH,
            f"MemFree {info.mem_free_bytes} of MemTotal {info.mem_total_bytes} bytes is absurd",
        )
    return info


def read_meminfo(root: str = "/") -> MemInfo:
    """Read /proc/meminfo under `root` and replace impossible values. Raises KernelFileError."""
    return plausible(parse(files.read(root, PATH)))


def plausible(info: MemInfo) -> MemInfo:
    """Replace impossible values by estimates, and name them in `remarks`. MemTotal and MemFree are trusted.

    Counters leak: Inactive(file) above MemTotal, and MemAvailable with it
    (oracle/oracle-linux#218). Unchanged they would mean plenty of memory. No memory in use exceeds
    MemTotal - MemFree. The kernel adds counters up from per-CPU parts, so a small excess is not an
    error.
    """
    used, slack = info.non_free_bytes, info.mem_total_bytes // _SLACK_DIVISOR
    changes: dict[str, int] = {}
    for name in _IN_USE:
        if (info.__dict__[name] or 0) > used + slack:
            changes[name] = _in_use_estimate_bytes(info, name, used, slack)
    file_bytes, most = info.file_bytes, _most_file_bytes(info, changes, used)
    if file_bytes > most + slack:
        estimate = _file_estimate_bytes(info, changes, used, slack)
        changes["active_file_bytes"] = min(info.active_file_bytes, estimate)
        changes["inactive_file_bytes"] = estimate - changes["active_file_bytes"]
    changes |= _swap_and_hugetlb(info)
    if info.mem_available_bytes > info.mem_total_bytes or not _LEAKS_INTO_AVAILABLE.isdisjoint(
        changes
    ):
        changes["mem_available_bytes"] = _available_estimate_bytes(info, changes)
    if not changes:
        return info
    said = [
        _remark(name, info.__dict__[name], value)
        for name, value in changes.items()
        if value != info.__dict__[name]
    ]
    return replace(info, **changes, remarks=(*info.remarks, *said))


def _in_use_estimate_bytes(info: MemInfo, name: str, used: int, slack: int) -> int:
    if name in _DISJOINT:
        return _rest_bytes(info, name, used, slack)
    if name == "shmem_bytes":
        # The page cache that is not on the file lists.
        cache = info.cached_bytes + info.buffers_bytes
        return min(used, max(0, cache - info.file_bytes))
    # A part of another counter. Without a better estimate it counts as 0, so that nothing acts on
    # it.
    return 0


def _rest_bytes(info: MemInfo, name: str, used: int, slack: int) -> int:
    """Return the bytes in use that no other trusted counter accounts for: the upper limit of `name`."""
    others = [n for n in _DISJOINT if n != name and (info.__dict__[n] or 0) <= used + slack]
    return max(0, used - sum([info.__dict__[n] or 0 for n in others]))


def _most_file_bytes(info: MemInfo, changes: dict[str, int], used: int) -> int:
    """Return the upper limit of the file lists.

    They hold page cache without shared memory, and anonymous pages that may be dropped.
    """
    if not changes.keys().isdisjoint(_PAGE_CACHE):
        return used
    cache = info.cached_bytes + info.buffers_bytes - info.shmem_bytes
    return min(used, max(0, cache) + info.anon_pages_bytes)


def _file_estimate_bytes(info: MemInfo, changes: dict[str, int], used: int, slack: int) -> int:
    if changes.keys().isdisjoint(_PAGE_CACHE):
        return min(used, max(0, info.cached_bytes + info.buffers_bytes - info.shmem_bytes))
    shmem = changes.get("shmem_bytes", info.shmem_bytes)
    return max(0, _rest_bytes(info, "cached_bytes", used, slack) - shmem)


def _available_estimate_bytes(info: MemInfo, changes: dict[str, int]) -> int:
    """Return an estimate: half of the reclaimable memory, as si_mem_available() does when it is little.

    Source: mm/show_mem.c.
    """
    now: dict[str, int] = {**info.__dict__, **changes}
    reclaimable = now["active_file_bytes"] + now["inactive_file_bytes"] + now["s_reclaimable_bytes"]
    most = min(info.mem_total_bytes, info.mem_available_bytes)
    return min(most, info.mem_free_bytes + reclaimable // 2)


def _swap_and_hugetlb(info: MemInfo) -> dict[str, int]:
    changes = {}
    if info.swap_free_bytes > info.swap_total_bytes:
        changes["swap_free_bytes"] = 0
    if (info.hugetlb_bytes or 0) > info.mem_total_bytes:
        pool = (info.hugepages_total or 0) * (info.hugepagesize_bytes or 0)
        changes["hugetlb_bytes"] = pool if pool <= info.mem_total_bytes else 0
    if info.hugepages_total is not None and (info.hugepages_free or 0) > info.hugepages_total:
        changes["hugepages_free"] = 0
    return changes


def _remark(field: str, was: int, now: int) -> str:
    name, in_kib = _NAMES[field]
    unit, shift = (" kB", 10) if in_kib else ("", 0)
    return f"{name} of {was >> shift}{unit} cannot be: {now >> shift}{unit} assumed"


def _is_negative(rest: bytes) -> bool:
    """Return whether an amount is below zero: with a sign, or wrapped around 2**64 bytes."""
    token = rest.split()[0] if rest.split() else b""
    if token[:1] == b"-":
        return token[1:].isdigit()
    return token.isdigit() and len(token) <= 20 and int(token) >= BYTES_LIMIT >> 10


def _kib_in_bytes(name: bytes, rest: bytes) -> int:
    tokens = rest.split()
    if len(tokens) != 2 or tokens[1] != b"kB":
        raise KernelFileError(PATH, f"{name.decode()} is not an amount in kB: {quoted(rest)}")
    return number(PATH, name.decode(), tokens[0], BYTES_LIMIT >> 10) << 10


def _plain(name: bytes, rest: bytes) -> int:
    return number(PATH, name.decode(), rest.strip(), BYTES_LIMIT)
