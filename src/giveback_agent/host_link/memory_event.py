"""The guest's memory as the host's ledger reads it: kernel files as they are, and what they leave out."""

from __future__ import annotations

import os

from giveback_agent.runtime.worker import become_idle_class
from giveback_kernel import buddyinfo, files, meminfo, page_reporting, vmstat, zoneinfo
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False


def picture(root: str, *, pages: bool = False, cgroups: bool = False) -> dict[str, object]:
    """Return the `memory` event: kernel files' text as it is, for the host to parse.

    `cgroups`: also which service and container has what, in at most a second.
    Raises KernelFileError where meminfo, or with `pages` the page flags, cannot be read.
    """
    runs = _compressed_runs(root) if pages else None
    state = page_reporting.probe(root)
    said: dict[str, object] = {
        "event": "memory",
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "reporting": state.active,
        "report_order": page_reporting.read_effective_order(root, state.order),
        "meminfo": files.read(root, meminfo.PATH).decode("utf-8", "replace"),
        "buddyinfo": _buddyinfo(root),
        "pcp_bytes": _pcp_bytes(root),
        "compressed_swap_bytes": _compressed_swap_bytes(root),
    }
    if cgroups:
        from giveback_agent.cgroups import rows, survey

        said["cgroups"] = rows.as_lines(survey.survey(root).rows)
    if runs is not None:
        said["pages"] = runs
    return said


def _buddyinfo(root: str) -> str:
    try:
        return files.read(root, buddyinfo.PATH).decode("utf-8", "replace")
    except KernelFileError:
        return ""


def _pcp_bytes(root: str) -> int | None:
    """What is free on per-CPU lists: MemFree leaves it out, and no other counter has it."""
    try:
        return zoneinfo.pcp_pages(zoneinfo.read_zoneinfo(root)) * os.sysconf("SC_PAGE_SIZE")
    except KernelFileError:
        return None


def _compressed_swap_bytes(root: str) -> int | None:
    """What zram and zswap keep in zsmalloc's pages (nr_zspages); None where it is not counted."""
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
