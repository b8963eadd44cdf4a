"""What this kernel lets this process do: tried, never guessed by version."""

from __future__ import annotations

import os

from giveback_agent import files
from giveback_agent.actions import Capabilities
from giveback_agent.kernel import compaction, page_reporting, reclaim


def probe(root: str) -> Capabilities:
    """Find out what can be done in the guest under `root`; never raises, changes nothing."""
    reporting = page_reporting.probe(root)
    path = reclaim.root_reclaim_path(root)
    order = reporting.order
    if order is not None and order < 0:
        order = page_reporting.read_pageblock_order(root)
    return Capabilities(
        reporting=reporting.active,
        order=order,
        order_settable=reporting.order_settable,
        reclaim=path is not None and reclaim.is_permitted(root, path),
        drop_caches=os.access(files.under(root, reclaim.DROP_CACHES_PATH), os.W_OK),
        compaction=compaction.is_available(root) and compaction.is_permitted(root),
    )
