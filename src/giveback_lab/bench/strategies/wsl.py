"""WSL 2's three generations of memory reclaim, each re-implemented from its published rule."""

from __future__ import annotations

from giveback_kernel.page_reporting import ORDER_PATH
from giveback_lab.bench.strategies.running import of_program

# 128 KiB: WSL's value since 2023 where Windows supports it; else 2 MiB.
REPORT_ORDER = {ORDER_PATH: "5"}
# The rule of 2026 does nothing before the CPUs were idle for this many seconds.
GEN2_IDLE_S = 120.0
MAIN_CPP = "microsoft/WSL 02cd979f, src/linux/init/main.cpp, ConfigureMemoryReduction()"
UTIL_CPP = "microsoft/WSL 49f841cc (2026-07-24), src/linux/init/util.cpp"


STRATEGIES = (
    of_program(
        "wsl-2019",
        "WSL 2 of 2019: compaction when idle (re-implementation)",
        "Windows 19013's release notes (idleThreshold); the rule as in " + MAIN_CPP,
        ("wsl.py",),
    ),
    *(
        of_program(
            f"wsl-gen1-{mode}", f"WSL 2 until 2.9, {mode} (re-implementation)", MAIN_CPP,
            ("wsl.py",), before=REPORT_ORDER,
        )
        for mode in ("dropcache", "gradual")
    ),
    *(
        of_program(
            f"wsl-gen2-{mode}", f"WSL 2 of July 2026, {mode} (re-implementation)", UTIL_CPP,
            ("wsl_gen2.py",), before=REPORT_ORDER, quiet_s=GEN2_IDLE_S,
        )
        for mode in ("dropcache", "gradual")
    ),
)  # fmt: skip
