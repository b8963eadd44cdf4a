"""Protect the memory of live cgroups for the moment of a reclaim from the root: `memory.low`.

Reclaim passes over a cgroup below its `memory.low`. A cgroup's protection is bounded by its parent's, and
what a parent has beyond its children's claims is shared among all its children, dying ones too
(memory_recursiveprot, which systemd mounts with). So each live leaf gets a `memory.low` of what it holds,
and each of its ancestors exactly the sum of those below it: a dying cgroup inherits nothing.

The originals are on record under /run before the first is changed, and `restore` puts them back, after a
SIGKILL too. A value that somebody else has set meanwhile is left alone.
Source: Documentation/admin-guide/cgroup-v2.rst (memory.low), effective_protection() in mm/page_counter.c.
"""

from __future__ import annotations

import os

from giveback_agent.runtime.memory_limits import LOW
from giveback_agent.runtime.saved_value import Changed
from giveback_kernel import files, memcg
from giveback_kernel.errors import KernelFileError

# A leaf with less cache than this has nothing to protect.
LEAST_BYTES = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def plan(root: str, mount: str) -> tuple[Changed, ...]:
    """Choose the values for every live cgroup with cache, parents before children.

    A cgroup that already has more protection keeps it, and its ancestors get room for it.
    """
    mount = mount.rstrip("/")
    wanted: dict[str, int] = {}
    for leaf in memcg.leaves(root, mount):
        if leaf == mount:
            continue
        held = _held_bytes(root, leaf)
        if held < LEAST_BYTES:
            continue
        folder = leaf
        while folder != mount:
            wanted[folder] = wanted.get(folder, 0) + held
            folder = folder.rpartition("/")[0]
    planned = []
    for folder in sorted(wanted):
        path = f"{folder}/memory.low"
        original = LOW.read(root, path)
        if original is not None and original != "max" and int(original) < wanted[folder]:
            planned.append(Changed(original, str(wanted[folder]), path))
    return tuple(planned)


def protect(root: str, mount: str) -> None:
    """Set the planned values. Raises KernelFileError or AgentError where they cannot be kept on record.

    A cgroup that vanishes meanwhile, or refuses, is passed over.
    """
    LOW.change(root, plan(root, mount))


def restore(root: str) -> int | None:
    """Put every memory.low on record back; returns how many, or None where there was no record.

    Raises KernelFileError; the record is kept then.
    """
    return LOW.restore(root)


def _held_bytes(root: str, folder: str) -> int:
    """File cache of a cgroup, in whole pages; 0 where it has vanished."""
    try:
        lists = memcg.read_file_lists(root, folder)
        current = int(files.read(root, f"{folder}/memory.current", 64))
    except (KernelFileError, ValueError):
        return 0
    if lists.file_bytes < LEAST_BYTES:
        return 0
    return -(-current // PAGE_BYTES) * PAGE_BYTES
