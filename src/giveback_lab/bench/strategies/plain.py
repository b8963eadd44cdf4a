"""The kernel alone: no reporting, free page reporting, and the kernel's own knobs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from giveback_kernel.page_reporting import ORDER_PATH
from giveback_lab.bench.strategies.running import in_guests
from giveback_lab.bench.strategy import Strategy

if TYPE_CHECKING:
    from giveback_lab.bench.strategies.running import InGuests
    from giveback_lab.vms.vm import LabVm

PROACTIVENESS_PATH = "/proc/sys/vm/compaction_proactiveness"


async def _nothing(running: InGuests, vm: LabVm) -> None:
    del running, vm


async def _order_0(running: InGuests, vm: LabVm) -> None:
    # Linux 5.14 to 6.1 overwrites the value from the kernel command line when the driver registers.
    await running.change(vm, {ORDER_PATH: "0"})


NONE = Strategy(
    name="none",
    title="none: no page reporting, no agent",
    source="QEMU's default: free-page-reporting=off",
    reporting=False,
    start=in_guests(_nothing),
    quiet_s=math.inf,
)
REPORTING = Strategy(
    name="reporting",
    title="free page reporting alone",
    source="mm/page_reporting.c: 2 MiB blocks, a sixteenth of a free list every 2 s",
    start=in_guests(_nothing),
    quiet_s=math.inf,
)
ORDER_0 = Strategy(
    name="order-0",
    title="free page reporting, every page, always (report order 0)",
    source="page_reporting.page_reporting_order=0; measured so in HyperAlloc (EuroSys 2025)",
    kernel_arguments="page_reporting.page_reporting_order=0",
    start=in_guests(_order_0),
)


def _proactive(value: int, remark: str) -> Strategy:
    async def set_up(running: InGuests, vm: LabVm) -> None:
        await running.change(vm, {PROACTIVENESS_PATH: str(value)})
        await running.note_threads(vm, "kcompactd")

    return Strategy(
        name=f"proactive-{value}",
        title=f"page reporting and the kernel's proactive compaction at {value}{remark}",
        source="Documentation/admin-guide/sysctl/vm.rst: compaction_proactiveness",
        start=in_guests(set_up),
    )


PROACTIVE = (_proactive(20, " (its default)"), _proactive(100, ""))
