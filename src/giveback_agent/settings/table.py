"""The table of the agent's settings: the keys, the kind and the reason of each."""

from __future__ import annotations

from giveback_agent.wsl import wslconfig
from giveback_kernel.record import Record
from giveback_kernel.units import WSL_SIZE_MAX_BYTES, format_wsl_size

TYPE_CHECKING = False

MODES = ("adaptive", "disabled", "dropcache", "gradual")
# The word for an empty list of patterns.
NOTHING = "none"
WSL_MODES = ("Disabled", "DropCache", "Gradual")


class AgentSettings(Record):
    """The effective settings. `TABLE` explains each field."""

    mode: str = "adaptive"
    idle_busy_percent: int = 20
    idle_window_s: int = 3
    cache_floor_bytes: int = 64 << 20
    lowest_report_order: int = 0
    swap: bool = False
    dry_run: bool = False
    page_reporting: bool = True
    idle_threshold: int = 1
    exclude: tuple[str, ...] = ()


class Setting(Record):
    """A row of the table: a field of `AgentSettings`, the keys that set it, and the reason for it.

    `keys` are full names; if one file has two of them, the first counts. `kind` is "enum", "bool", "int",
    "size" or "patterns". `low` and `high` are the inclusive bounds of a number or size.
    """

    field: str
    keys: tuple[str, ...]
    kind: str
    reason: str
    low: int = 0
    high: int = wslconfig.INT_MAX


TABLE = (
    Setting(
        "mode",
        ("giveback.mode", "experimental.autoMemoryReclaim"),
        "enum",
        "The rules by which memory is returned: giveback's own (`adaptive`), or WSL's modes by their"
        " own names.",
    ),
    Setting(
        "idle_busy_percent",
        ("giveback.idleBusyPercent",),
        "int",
        "The guest counts as idle up to this percentage of all CPUs' time, unless tasks stall. An open"
        " editor keeps a machine at 5 to 10 % busy: WSL's 0.5 % is never met there.",
        low=1,
        high=100,
    ),
    Setting(
        "idle_window_s",
        ("giveback.idleWindow",),
        "int",
        "Seconds of idleness before a release pass. A short time returns memory sooner; set a longer"
        " one if the workload comes in bursts.",
        low=1,
        high=86400,
    ),
    Setting(
        "cache_floor_bytes",
        ("giveback.cacheFloor",),
        "size",
        "Page cache that is never reclaimed, however cold: the programs and libraries in use. (A kernel"
        " that can only drop the whole cache does so only at urgency 3, if the host names no amount, and"
        " in WSL's modes.) It is half of WSL's own floor, as cache that was read again is kept anyway."
        " The learned floor is never below it.",
        high=WSL_SIZE_MAX_BYTES,
    ),
    Setting(
        "lowest_report_order",
        ("giveback.lowestReportOrder",),
        "int",
        "The lowest page_reporting_order that a deep report may set, as a power of two of pages. With"
        " the kernel's own order (9 on x86) there is no deep report.",
        high=15,
    ),
    Setting(
        "swap",
        ("giveback.swap",),
        "bool",
        "Whether memory of programs may also be reclaimed, if there is swap or zram. Programs get it"
        " back more slowly than cache.",
    ),
    Setting(
        "dry_run",
        ("giveback.dryRun",),
        "bool",
        "Decide and log, but change nothing.",
    ),
    Setting(
        "page_reporting",
        ("giveback.pageReporting", "wsl2.pageReporting"),
        "bool",
        "With false, steps that only serve free page reporting are left out: compaction, deep report"
        " and every write to the report order. Cache is still reclaimed as the mode says.",
    ),
    Setting(
        "idle_threshold",
        ("giveback.idleThreshold", "wsl2.idleThreshold"),
        "int",
        "0 turns compaction off. Other values have no effect: WSL's modes already count a guest as idle"
        " only below one tick per CPU and second, and adaptive has its own threshold.",
    ),
    Setting(
        "exclude",
        ("giveback.exclude",),
        "patterns",
        "Cgroups that are neither reclaimed from nor trained: services and containers whose latency is"
        " more important than their memory. Cache of ended cgroups is reclaimed even if they match.",
    ),
)


def format_value(setting: Setting, value: object) -> str:
    """Format a value as in a settings file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or NOTHING
    if setting.kind == "size" and isinstance(value, int):
        return format_wsl_size(value)
    return str(value)


def choices(key: str) -> tuple[str, ...]:
    """Return the values of an enum key: WSL's key takes only WSL's own values."""
    return MODES if key.lower().startswith("giveback.") else WSL_MODES
