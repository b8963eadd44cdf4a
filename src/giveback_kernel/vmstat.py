"""/proc/vmstat: event counters since boot, under the kernel's own names.

Source: vmstat_text in mm/vmstat.c. Counters are in pages or events; names differ between kernels,
and a counter this kernel does not have is None.
"""

from __future__ import annotations

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "/proc/vmstat"


class VmStat(Record):
    """The counters that decisions use. `allocstall` is the sum over the zones."""

    nr_free_pages: int
    nr_dirty: int | None = None
    nr_writeback: int | None = None
    nr_balloon_pages: int | None = None
    workingset_refault_file: int | None = None
    workingset_refault_anon: int | None = None
    workingset_activate_file: int | None = None
    workingset_restore_file: int | None = None
    pgscan_kswapd: int | None = None
    pgscan_direct: int | None = None
    pgscan_proactive: int | None = None
    pgscan_file: int | None = None
    pgscan_anon: int | None = None
    pgsteal_kswapd: int | None = None
    pgsteal_direct: int | None = None
    pgsteal_proactive: int | None = None
    pgsteal_file: int | None = None
    pgsteal_anon: int | None = None
    allocstall: int | None = None
    compact_stall: int | None = None
    compact_fail: int | None = None
    compact_success: int | None = None
    compact_migrate_scanned: int | None = None
    compact_free_scanned: int | None = None
    pgmigrate_success: int | None = None
    oom_kill: int | None = None
    pgfault: int | None = None
    pgmajfault: int | None = None
    pgpgin: int | None = None
    pswpin: int | None = None
    pswpout: int | None = None
    drop_pagecache: int | None = None
    drop_slab: int | None = None
    thp_fault_alloc: int | None = None
    thp_fault_fallback: int | None = None
    thp_split_page: int | None = None


_NAMES = tuple((name.encode(), name) for name in VmStat._fields if name != "allocstall")
_ALLOCSTALL = (
    b"allocstall",
    b"allocstall_dma",
    b"allocstall_dma32",
    b"allocstall_normal",
    b"allocstall_high",
    b"allocstall_movable",
    b"allocstall_device",
)


def parse(data: bytes) -> VmStat:
    """Parse the text of /proc/vmstat.

    Before Linux 5.9 there was one `workingset_refault`, and it counted file pages only: it is read
    as `workingset_refault_file` (commit 170b04b7ae49, "mm/workingset: prepare the workingset
    detection infrastructure for anon LRU").

    Raises KernelFileError if `nr_free_pages` is missing, or if a line is not a name and a number.
    """
    whole = data[: data.rfind(b"\n") + 1]
    words = whole.split()
    if len(words) != 2 * whole.count(b"\n"):
        raise KernelFileError(PATH, "not lines of a name and a number")
    counters = dict(zip(words[::2], words[1::2]))
    if b"workingset_refault_file" not in counters and b"workingset_refault" in counters:
        counters[b"workingset_refault_file"] = counters[b"workingset_refault"]
    values: dict[str, Any] = {}
    for key, name in _NAMES:
        token = counters.get(key)
        if token is not None:
            values[name] = number(PATH, name, token)
    if "nr_free_pages" not in values:
        raise KernelFileError(PATH, "nr_free_pages is missing")
    stalls = [number(PATH, "allocstall", counters[key]) for key in _ALLOCSTALL if key in counters]
    if stalls:
        values["allocstall"] = sum(stalls)
    return VmStat(**values)


def read_vmstat(root: str = "/") -> VmStat:
    """Read /proc/vmstat under `root`. Raises KernelFileError."""
    return parse(files.read(root, PATH))
