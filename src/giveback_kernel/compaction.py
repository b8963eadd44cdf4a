"""Compaction on request: of all memory, or of one NUMA node.

The writer pays: the write returns only when the compaction has ended. So it belongs in a process
that can be abandoned, at SCHED_IDLE.

Source: Documentation/admin-guide/sysctl/vm.rst (compact_memory) and
Documentation/ABI/stable/sysfs-devices-node (compact).
"""

from __future__ import annotations

import os

from giveback_kernel import files

PATH = "/proc/sys/vm/compact_memory"
NODES_PATH = "/sys/devices/system/node"


def node_path(node: int) -> str:
    """Return the file that compacts one NUMA node."""
    return f"{NODES_PATH}/node{node}/compact"


def nodes(root: str = "/") -> tuple[int, ...]:
    """List the NUMA nodes that sysfs shows under `root`; empty if it shows none."""
    try:
        names = os.listdir(files.under(root, NODES_PATH))
    except OSError:
        return ()
    return tuple(sorted([int(name[4:]) for name in names if _is_node(name)]))


def is_available(root: str = "/") -> bool:
    """Return whether the kernel can compact at all (CONFIG_COMPACTION)."""
    return files.exists(root, PATH)


def is_permitted(root: str = "/") -> bool:
    """Return whether this process may write compact_memory."""
    return os.access(files.under(root, PATH), os.W_OK)


def node_is_available(root: str, node: int) -> bool:
    """Return whether one NUMA node can be compacted alone."""
    return files.exists(root, node_path(node))


def compact_all(root: str = "/") -> None:
    """Compact all memory; blocks until done. Raises KernelFileError."""
    files.write(root, PATH, "1")


def compact_node(root: str, node: int) -> None:
    """Compact one NUMA node; blocks until done. Raises KernelFileError."""
    files.write(root, node_path(node), "1")


def _is_node(name: str) -> bool:
    digits = name[4:]
    return name.startswith("node") and digits.isascii() and digits.isdigit() and len(digits) <= 5
