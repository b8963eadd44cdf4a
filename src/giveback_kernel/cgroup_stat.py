"""cgroup.stat of a cgroup (v2): how many cgroups are below it, and how many of them are dying.

A removed cgroup stays, dying, while pages are charged to it. Before Linux 7.0 its page cache stays
charged to it until the pages are reclaimed; since then the pages move to the parent at once.
Source: Documentation/admin-guide/cgroup-v2.rst (nr_descendants, nr_dying_descendants).
"""

from __future__ import annotations

from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number
from giveback_kernel.record import Record

STAT = "cgroup.stat"
_NAMES = (b"nr_descendants", b"nr_dying_descendants")


class CgroupStat(Record):
    """The numbers of live and dying cgroups below one, without itself."""

    descendants: int
    dying_descendants: int


def parse(data: bytes, path: str = STAT) -> CgroupStat:
    """Parse the text of cgroup.stat. Raises KernelFileError if a count is missing or invalid."""
    values = {}
    for line in data.split(b"\n")[:-1]:
        name, _, token = line.partition(b" ")
        if name in _NAMES:
            values[name] = number(path, name.decode(), token)
    for name in _NAMES:
        if name not in values:
            raise KernelFileError(path, f"{name.decode()} is missing")
    return CgroupStat(values[_NAMES[0]], values[_NAMES[1]])
