"""Reclaim on request: `memory.reclaim` of a cgroup or a NUMA node, and drop_caches.

Source: Documentation/admin-guide/cgroup-v2.rst (memory.reclaim, since 5.19; `swappiness=` since
6.11), Documentation/ABI/stable/sysfs-devices-node (nodeN/reclaim, the same words, without cgroups)
and Documentation/admin-guide/sysctl/vm.rst (drop_caches). All of them block until done.
"""

from __future__ import annotations

import errno
import os

from giveback_kernel import cgroup, compaction, files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

DROP_CACHES_PATH = "/proc/sys/vm/drop_caches"
DROP_PAGECACHE = 1
DROP_SLAB = 2
DROP_BOTH = 3
SWAPPINESS_MAX = 200

DONE = "done"
PARTIAL = "partial"
SWAPPINESS_REFUSED = "swappiness refused"
INTERRUPTED = "interrupted"
GONE = "gone"
DENIED = "denied"
FAILED = "failed"

_OUTCOMES = {
    errno.EAGAIN: PARTIAL,
    errno.EINTR: INTERRUPTED,
    errno.ENOENT: GONE,
    errno.ENODEV: GONE,
    errno.ENOTDIR: GONE,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EROFS: DENIED,
}


class RequestResult(Record):
    """The result of a request: one of the outcomes above, the errno, and whether `swappiness=` was accepted.

    DONE and PARTIAL both freed memory; only meminfo shows how much.
    """

    outcome: str
    errno: int | None = None
    swappiness_used: bool = False


def request(amount_bytes: int, swappiness: int | None = None) -> str:
    """Return the words that ask for `amount_bytes`, from file pages alone at `swappiness` 0.

    Raises ValueError for an amount or a swappiness that no kernel accepts.
    """
    if amount_bytes <= 0:
        raise ValueError(f"nothing to reclaim: {amount_bytes} bytes")
    if swappiness is None:
        return str(amount_bytes)
    if not 0 <= swappiness <= SWAPPINESS_MAX:
        raise ValueError(f"swappiness is 0 to {SWAPPINESS_MAX}, not {swappiness}")
    return f"{amount_bytes} swappiness={swappiness}"


def outcome_of(failure_errno: int | None, with_swappiness: bool) -> str:
    """Classify the errno of a request (None: the write succeeded).

    EAGAIN means that less than requested was reclaimed: partial success. EINVAL for a request with
    `swappiness=` means that this kernel does not know the word.
    """
    if failure_errno is None:
        return DONE
    if failure_errno == errno.EINVAL and with_swappiness:
        return SWAPPINESS_REFUSED
    return _OUTCOMES.get(failure_errno, FAILED)


def reclaim(
    root: str, path: str, amount_bytes: int, swappiness: int | None = None, or_without: bool = False
) -> RequestResult:
    """Request `amount_bytes` from the reclaim file at `path`; blocks until done. Raises ValueError only.

    `or_without`: if `swappiness=` is refused, request again without it. The kernel may then swap
    anonymous memory out, so set this only without swap, or if the settings allow swapping.
    """
    result = _ask(root, path, amount_bytes, swappiness)
    if result.outcome == SWAPPINESS_REFUSED and or_without:
        return _ask(root, path, amount_bytes, None)
    return result


def root_reclaim_path(root: str = "/") -> str | None:
    """Find the topmost `memory.reclaim` under `root`; None if there is none.

    Kernels before 5.19 have none, nor do systems with the memory controller on cgroup v1.
    """
    mount = cgroup.find_v2_mount(root)
    if mount is None:
        return None
    path = f"{mount}/memory.reclaim"
    return path if files.exists(root, path) else None


def node_reclaim_paths(root: str = "/") -> tuple[str, ...]:
    """List the NUMA nodes' own reclaim files under `root`: these need no cgroup. Often empty."""
    paths = [f"{compaction.NODES_PATH}/node{node}/reclaim" for node in compaction.nodes(root)]
    return tuple([path for path in paths if files.exists(root, path)])


def is_permitted(root: str, path: str) -> bool:
    """Return whether this process may write the file at `path`."""
    return os.access(files.under(root, path), os.W_OK)


def drop_caches(root: str, what: int) -> None:
    """Drop all clean page cache (1), all reclaimable slab (2) or both (3). Raises KernelFileError.

    There is no gentler way to shrink slab than `DROP_SLAB`.
    """
    if what not in (DROP_PAGECACHE, DROP_SLAB, DROP_BOTH):
        raise KernelFileError(files.under(root, DROP_CACHES_PATH), f"{what} is not 1, 2 or 3")
    files.write(root, DROP_CACHES_PATH, str(what))


def _ask(root: str, path: str, amount_bytes: int, swappiness: int | None) -> RequestResult:
    with_swappiness = swappiness is not None
    try:
        files.write(root, path, request(amount_bytes, swappiness))
    except KernelFileError as error:
        return RequestResult(outcome_of(error.errno, with_swappiness), error.errno, with_swappiness)
    return RequestResult(DONE, None, with_swappiness)
