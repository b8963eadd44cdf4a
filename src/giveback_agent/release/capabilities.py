"""Find out which kernel interfaces this process can use: by trying, never by the kernel's version."""

from __future__ import annotations

import os

from giveback_agent.policy.observation import GENERATIONS, KernelCapabilities
from giveback_agent.runtime import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROBE_TIMEOUT_S = 20.0
_UNKNOWN = "?"


def probe(root: str, swap: bool = False) -> KernelCapabilities:
    """Probe the kernel interfaces of the guest under `root`. Never raises, changes nothing.

    `swap`: the settings allow swapping out. It runs in a child process, so that the service does not hold
    the modules that it imports.
    """
    output = child.in_child(lambda: _encoded(_probe_here(root, swap)), PROBE_TIMEOUT_S).output
    words = output.decode("ascii", "replace").split()
    # If no child could be started or it failed: in this process.
    return (
        _decoded(words)
        if len(words) == len(KernelCapabilities._fields)
        else _probe_here(root, swap)
    )


def _probe_here(root: str, swap: bool) -> KernelCapabilities:
    from giveback_agent.release import percpu_lists, report_delay
    from giveback_agent.release.cache import cold_anon, cold_cache
    from giveback_kernel import compaction, files, page_reporting, reclaim
    from giveback_kernel.errors import KernelFileError

    reporting = page_reporting.probe(root)
    path = reclaim.root_reclaim_path(root)
    order = reporting.order
    if order is not None:
        try:
            order = page_reporting.read_effective_order(root, order)
        except KernelFileError:
            order = None
    cold_method = cold_cache.probe(root, swap)
    return KernelCapabilities(
        reporting=reporting.active,
        order=order,
        order_settable=reporting.may_lower,
        reclaim=path is not None and reclaim.is_permitted(root, path),
        drop_caches=os.access(files.under(root, reclaim.DROP_CACHES_PATH), os.W_OK),
        compaction=compaction.is_available(root) and compaction.is_permitted(root),
        cold_method=cold_method,
        drain=percpu_lists.is_permitted(root),
        cold_anon=cold_anon.probe(root, cold_method == GENERATIONS),
        fast_reports=report_delay.is_settable(root),
    )


def _encoded(can: KernelCapabilities) -> bytes:
    values = [getattr(can, name) for name in can._fields]
    return " ".join(_UNKNOWN if v is None else str(v) for v in values).encode()


def _decoded(words: list[str]) -> KernelCapabilities:
    return KernelCapabilities(*[_value_of(word) for word in words])


def _value_of(word: str) -> Any:
    if word in ("True", "False"):
        return word == "True"
    if word == _UNKNOWN:
        return None
    return int(word) if word.lstrip("-").isdigit() else word
