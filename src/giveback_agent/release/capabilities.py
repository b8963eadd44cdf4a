"""What this kernel lets this process do: tried, never guessed by version."""

from __future__ import annotations

import os

from giveback_agent.policy.observation import KernelCapabilities
from giveback_agent.release import percpu_lists
from giveback_agent.runtime import child
from giveback_kernel import compaction, files, page_reporting, reclaim
from giveback_kernel.errors import KernelFileError

PROBE_TIMEOUT_S = 20.0


def probe(root: str) -> KernelCapabilities:
    """Find out what can be done in the guest under `root`; never raises, changes nothing."""
    reporting = page_reporting.probe(root)
    path = reclaim.root_reclaim_path(root)
    order = reporting.order
    if order is not None:
        try:
            order = page_reporting.read_effective_order(root, order)
        except KernelFileError:
            order = None
    return KernelCapabilities(
        reporting=reporting.active,
        order=order,
        order_settable=reporting.may_lower,
        reclaim=path is not None and reclaim.is_permitted(root, path),
        drop_caches=os.access(files.under(root, reclaim.DROP_CACHES_PATH), os.W_OK),
        cold_method=_cold_method(root),
        compaction=compaction.is_available(root) and compaction.is_permitted(root),
        drain=percpu_lists.is_permitted(root),
    )


def _cold_method(root: str) -> str:
    """Ask in a child: what can take cold cache is imported where it is used, never by the service."""

    def ask() -> bytes:
        from giveback_agent.release import cold_cache

        return cold_cache.probe(root).encode()

    return child.in_child(ask, PROBE_TIMEOUT_S).output.decode("ascii", "replace") or "none"
