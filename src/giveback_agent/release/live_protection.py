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

from giveback_agent.runtime import run_dir
from giveback_kernel import files, memcg
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

LOW = "memory.low"
RECORD_PATH = run_dir.MEMORY_LOW_PATH
RECORD_LIMIT_BYTES = 1 << 20
# A leaf with less cache than this has nothing to protect.
LEAST_BYTES = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Changed(Record):
    """One memory.low: what it was, what we set (both as the kernel writes them), and its file."""

    original: str
    ours: str
    path: str


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
        path = f"{folder}/{LOW}"
        original = _read(root, path)
        if original is not None and original != "max" and int(original) < wanted[folder]:
            planned.append(Changed(original, str(wanted[folder]), path))
    return tuple(planned)


def protect(root: str, mount: str) -> None:
    """Set the planned values. Raises KernelFileError or AgentError where they cannot be kept on record.

    A cgroup that vanishes meanwhile, or refuses, is passed over.
    """
    planned = plan(root, mount)
    if not planned:
        return
    run_dir.make_folder(root)
    text = "".join(f"{c.original} {c.ours} {c.path}\n" for c in planned)
    if not run_dir.write_file(root, RECORD_PATH, text):
        path = files.under(root, RECORD_PATH)
        raise KernelFileError(path, "cannot be written: a crash could not be repaired")
    for change in planned:
        _write(root, change.path, change.ours)


def restore(root: str) -> int | None:
    """Put every memory.low on record back; returns how many, or None where there was no record.

    Raises KernelFileError where the record cannot be removed.
    """
    if not os.path.lexists(files.under(root, RECORD_PATH)):
        return None
    count = 0
    for change in reversed(_recorded(root)):
        if _read(root, change.path) == change.ours and _write(root, change.path, change.original):
            count += 1
    run_dir.remove_file(root, RECORD_PATH)
    return count


def _recorded(root: str) -> list[Changed]:
    """The changes on record; a line that is nonsense, or names another file, is passed over."""
    try:
        data = files.read(root, RECORD_PATH, RECORD_LIMIT_BYTES)
    except KernelFileError:
        return []
    found = []
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        original, _, rest = line.partition(" ")
        ours, _, path = rest.partition(" ")
        well_formed = path.startswith("/") and path.endswith(f"/{LOW}") and "/../" not in path
        if well_formed and _is_value(original) and _is_value(ours):
            found.append(Changed(original, ours, path))
    return found


def _is_value(token: str) -> bool:
    return token == "max" or (token.isascii() and token.isdigit() and len(token) <= 20)


def _held_bytes(root: str, folder: str) -> int:
    """File cache of a cgroup, in whole pages; 0 where it has vanished."""
    try:
        lists = memcg.read_file_lists(root, folder)
        current = int(files.read(root, f"{folder}/memory.current", 64))
    except (KernelFileError, ValueError):
        return 0
    if lists.active_bytes + lists.inactive_bytes < LEAST_BYTES:
        return 0
    return -(-current // PAGE_BYTES) * PAGE_BYTES


def _read(root: str, path: str) -> str | None:
    try:
        first = files.read(root, path, 64).partition(b"\n")[0]
    except KernelFileError:
        return None
    token = first.decode("ascii", "replace").strip()
    return token if _is_value(token) else None


def _write(root: str, path: str, value: str) -> bool:
    try:
        files.write(root, path, f"{value}\n")
    except KernelFileError:
        return False
    return True
