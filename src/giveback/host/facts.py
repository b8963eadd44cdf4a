"""Read the host's settings that keep guest memory, or make it resident again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from giveback_kernel import cgroup, files
from giveback_kernel.errors import KernelFileError

THP = "/sys/kernel/mm/transparent_hugepage"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Settings of the host that keep or refill guest memory; None if a setting cannot be read."""

    thp_enabled: str | None = None
    shmem_thp: str | None = None
    khugepaged_max_ptes_none: int | None = None
    swap_accounted: bool | None = None
    huge_page_bytes: int = 2 << 20


def read_facts(pid: int | None, root: str = "/") -> HostFacts:
    """Read the settings of this host, and of the cgroup of process `pid` if given. Never raises."""
    return HostFacts(
        thp_enabled=chosen(_read(root, f"{THP}/enabled")),
        shmem_thp=chosen(_read(root, f"{THP}/shmem_enabled")),
        khugepaged_max_ptes_none=_number(_read(root, f"{THP}/khugepaged/max_ptes_none")),
        swap_accounted=None if pid is None else _swap_accounted(root, pid),
        huge_page_bytes=_number(_read(root, f"{THP}/hpage_pmd_size")) or 2 << 20,
    )


def chosen(text: bytes) -> str | None:
    """Return the word in brackets, as in `always [madvise] never`, or None."""
    match = re.search(rb"\[(\w+)\]", text)
    return match.group(1).decode() if match else None


def _number(text: bytes) -> int | None:
    word = text.strip()
    return int(word) if word.isdigit() and len(word) < 20 else None


def _swap_accounted(root: str, pid: int) -> bool | None:
    """Tell whether the process's cgroup (version 2) accounts swap; None if it has no such cgroup.

    A path with `..` is outside this process's cgroup namespace: its folder is not visible.
    """
    mount = cgroup.v2_mount_or_usual(root)
    for line in _read(root, f"/proc/{pid}/cgroup").splitlines():
        if line.startswith(b"0::/") and len(line) > 4 and b".." not in line[3:].split(b"/"):
            group = mount + line[3:].decode("utf-8", "surrogateescape")
            if files.exists(root, f"{group}/memory.current"):
                return files.exists(root, f"{group}/memory.swap.current")
    return None


def _read(root: str, path: str) -> bytes:
    try:
        return files.read(root, path, 4096)
    except KernelFileError:
        return b""
