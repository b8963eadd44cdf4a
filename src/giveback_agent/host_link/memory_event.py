"""The memory report for the host's ledger: kernel files as they are, and counters that these lack."""

from __future__ import annotations

import os

from giveback_agent.runtime.worker import become_idle_class
from giveback_kernel import buddyinfo, files, meminfo, page_reporting, pressure, vmstat, zoneinfo
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False


def memory_report(root: str, *, pages: bool = False, cgroups: bool = False) -> dict[str, object]:
    """Return the `memory` event: the text of kernel files as it is, for the host to parse.

    `cgroups`: also the memory of each service and container, which takes at most one second.
    Raises KernelFileError if meminfo, or with `pages` the page flags, cannot be read.
    """
    runs = _compressed_runs(root) if pages else None
    state = page_reporting.probe(root)
    report: dict[str, object] = {
        "event": "memory",
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "reporting": state.active,
        "report_order": page_reporting.read_effective_order(root, state.order),
        "meminfo": files.read(root, meminfo.PATH).decode("utf-8", "replace"),
        "buddyinfo": _buddyinfo(root),
        "pcp_bytes": _pcp_bytes(root),
        "compressed_swap_bytes": _compressed_swap_bytes(root),
        "stall_percent": _stall_percent(root),
    }
    if cgroups:
        from giveback_agent.cgroups import rows, survey

        report["cgroups"] = rows.as_lines(survey.survey(root).rows)
    if runs is not None:
        report["pages"] = runs
    return report


def _buddyinfo(root: str) -> str:
    try:
        return files.read(root, buddyinfo.PATH).decode("utf-8", "replace")
    except KernelFileError:
        return ""


def _pcp_bytes(root: str) -> int | None:
    """Return the free bytes on per-CPU lists, which neither MemFree nor another counter includes."""
    try:
        return zoneinfo.pcp_pages(zoneinfo.read_zoneinfo(root)) * os.sysconf("SC_PAGE_SIZE")
    except KernelFileError:
        return None


def _stall_percent(root: str) -> float | None:
    """Return for how much of the last 10 s a task waited for memory; None if the kernel does not tell."""
    stalls = pressure.pressure_or_none("memory", root)
    return None if stalls is None else stalls.some.avg10


def _compressed_swap_bytes(root: str) -> int | None:
    """Return the bytes of zram and zswap in zsmalloc's pages (nr_zspages); None if not counted."""
    try:
        text = files.read(root, vmstat.PATH)
    except KernelFileError:
        return None
    for line in text.splitlines():
        name, _, count = line.partition(b" ")
        if name == b"nr_zspages" and count.isdigit() and len(count) < 16:
            return int(count) * os.sysconf("SC_PAGE_SIZE")
    return None


def _compressed_runs(root: str) -> str:
    import base64
    import zlib

    from giveback_kernel import kpageflags

    become_idle_class()
    packer = zlib.compressobj(1)
    packed = [packer.compress(kpageflags.encode(c)) for c in kpageflags.read_chunks(root)]
    return base64.b64encode(b"".join([*packed, packer.flush()])).decode("ascii")
