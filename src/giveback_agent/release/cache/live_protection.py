"""Protect the memory of live cgroups by `memory.low` for the time of a reclaim.

Reclaim skips a cgroup whose usage is below its `memory.low`. A cgroup's protection is limited by its
parent's. The part of a parent's protection that its children do not claim is distributed among all
children, dying ones too (memory_recursiveprot, which systemd mounts with). So each live leaf gets its usage
as `memory.low`, and each ancestor exactly the sum of the leaves below it: a dying cgroup inherits no
protection.

The original values are on record under /run before the first is changed, and `restore` writes them back, also
after a SIGKILL. A value that was set by another process meanwhile is left alone.
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

    A cgroup that already has more protection keeps it.
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
    """Set the planned values. Raises KernelFileError or AgentError if they cannot be recorded first.

    A cgroup that vanishes meanwhile, or refuses the value, is skipped.
    """
    LOW.change(root, plan(root, mount))


def restore(root: str) -> int | None:
    """Restore every memory.low on record; return their number, or None without a record.

    Raises KernelFileError; the record is then kept.
    """
    return LOW.restore(root)


def _held_bytes(root: str, folder: str) -> int:
    """Return the memory usage of a cgroup in bytes, rounded up to pages; 0 if it has little file cache."""
    try:
        lists = memcg.read_file_lists(root, folder)
        current = int(files.read(root, f"{folder}/memory.current", 64))
    except (KernelFileError, ValueError):
        return 0
    if lists.file_bytes < LEAST_BYTES:
        return 0
    return -(-current // PAGE_BYTES) * PAGE_BYTES
