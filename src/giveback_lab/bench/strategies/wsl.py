"""WSL 2's three generations of memory reclaim, each re-implemented from its published rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.page_reporting import ORDER_PATH
from giveback_lab.bench.strategies.running import guest_version, in_guests
from giveback_lab.bench.strategy import Strategy

if TYPE_CHECKING:
    from giveback_lab.bench.strategies.running import InGuests
    from giveback_lab.vms.vm import LabVm

# 128 KiB: what WSL sets since 2023 where Windows can take it; else 2 MiB.
REPORT_ORDER = "5"
# The rule of 2026 does nothing before the CPUs were idle for so long.
GEN2_IDLE_S = 120.0
MAIN_CPP = "microsoft/WSL 02cd979f, src/linux/init/main.cpp, ConfigureMemoryReduction()"
UTIL_CPP = "microsoft/WSL 49f841cc (2026-07-24), src/linux/init/util.cpp"


def _wsl(name: str, title: str, source: str, order: str | None) -> Strategy:
    program = "wsl_gen2.py" if name.startswith("wsl-gen2") else "wsl.py"

    async def set_up(running: InGuests, vm: LabVm) -> None:
        if order is not None:
            await running.change(vm, {ORDER_PATH: order})
        await running.run(vm, name)

    return Strategy(
        name=name,
        title=title,
        source=source,
        start=in_guests(set_up),
        version=guest_version(program),
        quiet_s=GEN2_IDLE_S if name.startswith("wsl-gen2") else 0.0,
    )


STRATEGIES = (
    _wsl(
        "wsl-2019",
        "WSL 2 of 2019: compaction when idle (re-implementation)",
        "Windows 19013's release notes (idleThreshold); the rule as in " + MAIN_CPP,
        None,
    ),
    _wsl(
        "wsl-gen1-dropcache",
        "WSL 2 until 2.9, dropcache (re-implementation)",
        MAIN_CPP,
        REPORT_ORDER,
    ),
    _wsl(
        "wsl-gen1-gradual",
        "WSL 2 until 2.9, gradual (re-implementation)",
        MAIN_CPP,
        REPORT_ORDER,
    ),
    _wsl(
        "wsl-gen2-dropcache",
        "WSL 2 of July 2026, dropcache (re-implementation)",
        UTIL_CPP,
        REPORT_ORDER,
    ),
    _wsl(
        "wsl-gen2-gradual",
        "WSL 2 of July 2026, gradual (re-implementation)",
        UTIL_CPP,
        REPORT_ORDER,
    ),
)
