"""memory.stat of a cgroup (v2), by what its memory is used for.

The numbers of a cgroup include all cgroups below it, and removed ones that still have pages charged
to them. The kernel flushes its per-CPU counts every two seconds, so sums of children may differ
from their parent by that much. Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number
from giveback_kernel.memcg import STAT
from giveback_kernel.record import Record

STAT_LIMIT_BYTES = 16 << 10
# The parts that `kernel` sums up since Linux 5.18; older kernels print only these.
_KERNEL_PARTS = (b"kernel_stack", b"pagetables", b"sec_pagetables", b"percpu", b"vmalloc", b"slab")
_NAMES = (
    *(b"anon", b"file", b"shmem", b"swapcached", b"inactive_file", b"file_dirty"),
    *(b"file_writeback", b"kernel", *_KERNEL_PARTS),
)


class MemcgUsage(Record):
    """Bytes of one cgroup and all below it.

    `cache_bytes` is the page cache without shared memory and tmpfs, which are `shared_bytes`. `cold_bytes` is
    the part of the cache that is clean and on the inactive list.
    """

    anon_bytes: int = 0
    cache_bytes: int = 0
    cold_bytes: int = 0
    shared_bytes: int = 0
    kernel_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """All of it; cold cache is part of the cache."""
        return self.anon_bytes + self.cache_bytes + self.shared_bytes + self.kernel_bytes


def parse(data: bytes, path: str = STAT) -> MemcgUsage:
    """Parse the text of memory.stat. Raises KernelFileError if anon or file is missing or invalid."""
    values = dict.fromkeys(_NAMES, 0)
    seen = set()
    for line in data.split(b"\n")[:-1]:
        name, _, token = line.partition(b" ")
        if name in values:
            values[name] = number(path, name.decode(), token, BYTES_LIMIT)
            seen.add(name)
    for name in _NAMES[:2]:
        if name not in seen:
            raise KernelFileError(path, f"{name.decode()} is missing")
    cache = max(0, values[b"file"] - values[b"shmem"] - values[b"swapcached"])
    must_be_written = values[b"file_dirty"] + values[b"file_writeback"]
    cold = min(cache, max(0, values[b"inactive_file"] - must_be_written))
    parts = sum([values[name] for name in _KERNEL_PARTS])
    kernel = values[b"kernel"] if b"kernel" in seen else parts
    return MemcgUsage(values[b"anon"], cache, cold, values[b"shmem"], kernel)


def read_usage(root: str, cgroup: str) -> MemcgUsage:
    """Read memory.stat of the cgroup whose folder is `cgroup`. Raises KernelFileError."""
    path = f"{cgroup}/{STAT}"
    return parse(files.read(root, path, STAT_LIMIT_BYTES), path)


def add(one: MemcgUsage, other: MemcgUsage) -> MemcgUsage:
    """Return the sum of two."""
    return _each(lambda a, b: a + b, one, other)


def without(whole: MemcgUsage, part: MemcgUsage) -> MemcgUsage:
    """Return `whole` less `part`, no amount below zero: the two were not read at the same moment."""
    return _each(lambda a, b: max(0, a - b), whole, part)


def at_most(one: MemcgUsage, limit: MemcgUsage) -> MemcgUsage:
    """Return `one` with every amount limited by that of `limit`."""
    return _each(min, one, limit)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _each(of: Callable[[int, int], int], one: MemcgUsage, other: MemcgUsage) -> MemcgUsage:
    return MemcgUsage(*[of(getattr(one, n), getattr(other, n)) for n in MemcgUsage._fields])
