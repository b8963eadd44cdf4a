"""memory.stat of cgroups (v2): the sizes of the file lists, for each cgroup that holds pages itself.

The kernel balances active against inactive per cgroup and node, so a decision on reclaim is also
made per cgroup. memory.stat includes the children: only a leaf shows its own lists. Source:
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import BYTES_LIMIT, number
from giveback_kernel.record import Record

STAT = "memory.stat"
NUMA = "memory.numa_stat"
CGROUPS_LIMIT = 1024
# The limit for callers that must sample every cgroup.
MANY_CGROUPS = 1 << 14
DEPTH_LIMIT = 16
_NAMES = (
    *(b"active_file", b"inactive_file", b"file_dirty", b"file_writeback"),
    b"workingset_refault_file",
)


class FileLists(Record):
    """File pages of one cgroup, in bytes. `refault_pages`: pages that were read back since its start."""

    active_bytes: int
    inactive_bytes: int
    dirty_bytes: int = 0
    writeback_bytes: int = 0
    refault_pages: int = 0

    @property
    def file_bytes(self) -> int:
        """All file pages of the cgroup."""
        return self.active_bytes + self.inactive_bytes


def parse(data: bytes, path: str = STAT) -> FileLists:
    """Parse the text of memory.stat. Raises KernelFileError if a list is missing or invalid."""
    values = {}
    for line in data.split(b"\n")[:-1]:
        name, _, token = line.partition(b" ")
        if name in _NAMES:
            values[name] = number(path, name.decode(), token, BYTES_LIMIT)
    for name in _NAMES[:2]:
        if name not in values:
            raise KernelFileError(path, f"{name.decode()} is missing")
    return FileLists(*[values.get(name, 0) for name in _NAMES])


def read_file_lists(root: str, cgroup: str) -> FileLists:
    """Read memory.stat of the cgroup whose folder is `cgroup`. Raises KernelFileError."""
    path = f"{cgroup}/{STAT}"
    return parse(files.read(root, path), path)


def file_bytes_of(root: str, cgroup: str) -> int:
    """Return the bytes of a cgroup's file pages; 0 if it has vanished or shows none."""
    try:
        return read_file_lists(root, cgroup).file_bytes
    except KernelFileError:
        return 0


def unprotected_bytes(root: str, mount: str, cgroup: str) -> int:
    """Return how much may be reclaimed from a cgroup without touching protected memory of it or its parents.

    memory.min and memory.low protect memory. The kernel itself ignores them when a cgroup is
    reclaimed by its own memory.reclaim or memory.high, or by lru_gen (mem_cgroup_unprotected(): the
    root of a reclaim). A missing file protects nothing.
    """
    most = BYTES_LIMIT
    folder = cgroup
    while len(folder) > len(mount):
        kept = max(_amount(root, f"{folder}/memory.min"), _amount(root, f"{folder}/memory.low"))
        if kept:
            most = min(most, max(0, _amount(root, f"{folder}/memory.current") - kept))
        folder = folder.rpartition("/")[0]
    return most


def _amount(root: str, path: str) -> int:
    """Read an amount; `max` is more than can exist, and an unreadable file is 0."""
    try:
        token = files.read(root, path, 64).partition(b"\n")[0].strip()
        return BYTES_LIMIT if token == b"max" else number(path, "the amount", token)
    except KernelFileError:
        return 0


def leaves(root: str, mount: str, limit: int = CGROUPS_LIMIT) -> tuple[str, ...]:
    """List the folders of the cgroups under `mount` without children, or `mount` itself if it has none.

    Bounded: beyond `limit` cgroups the rest is left out. See `all_leaves`.
    """
    return _walk(root, mount, limit)[0]


def all_leaves(root: str, mount: str, limit: int = MANY_CGROUPS) -> tuple[str, ...] | None:
    """List the folders as `leaves` does; return None if there are more than `limit` cgroups."""
    found, is_whole = _walk(root, mount, limit)
    return found if is_whole else None


def children(root: str, folder: str) -> list[str]:
    """List the child folders with a memory.stat: a child without the memory controller has no lists."""
    try:
        with os.scandir(files.under(root, folder)) as entries:
            names = sorted([entry.name for entry in entries if entry.is_dir(follow_symlinks=False)])
    except OSError:
        return []
    paths = [f"{folder}/{name}" for name in names]
    return [path for path in paths if files.exists(root, f"{path}/{STAT}")]


def inactive_file_bytes(root: str, cgroup: str, node: int) -> int:
    """Read the bytes on a node's inactive file list from memory.numa_stat. Raises KernelFileError.

    With the multi-gen LRU this list is all generations but the two youngest (lru_gen_is_active() in
    include/linux/mm_inline.h). The value may lag by 64 pages per CPU. A kernel without NUMA has one
    node and no such file; memory.stat is used instead.
    """
    path = f"{cgroup}/{NUMA}"
    if node == 0 and not files.exists(root, path):
        return read_file_lists(root, cgroup).inactive_bytes
    for line in files.read(root, path).split(b"\n"):
        if line.startswith(b"inactive_file "):
            for word in line.split()[1:]:
                name, _, token = word.partition(b"=")
                if name == b"N%d" % node:
                    return number(path, "inactive_file", token, BYTES_LIMIT)
    raise KernelFileError(path, f"has no inactive_file of node {node}")


def _walk(root: str, mount: str, limit: int) -> tuple[tuple[str, ...], bool]:
    found: list[str] = []
    todo = [(mount.rstrip("/"), 0)]
    seen = 0
    while todo and seen < limit:
        folder, depth = todo.pop()
        seen += 1
        below = children(root, folder) if depth < DEPTH_LIMIT else []
        if below:
            todo += [(child, depth + 1) for child in below]
        elif files.exists(root, f"{folder}/{STAT}"):
            found.append(folder)
    return tuple(sorted(found)), not todo
