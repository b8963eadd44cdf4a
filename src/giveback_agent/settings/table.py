"""The agent's settings: one row each, with its keys, its kind and why it exists."""

from __future__ import annotations

from giveback_agent.wsl import wslconfig
from giveback_kernel.record import Record
from giveback_kernel.units import WSL_SIZE_MAX_BYTES, format_wsl_size

TYPE_CHECKING = False

MODES = ("adaptive", "disabled", "dropcache", "gradual")
# A list of patterns that is empty.
NOTHING = "none"
WSL_MODES = ("Disabled", "DropCache", "Gradual")


class AgentSettings(Record):
    """What the agent goes by. Each field is explained at its `Setting` in `TABLE`."""

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
    """One row of the table: a field of `AgentSettings`, the keys that set it, and why it exists.

    `keys` are full names; of two in one file the first counts. `kind` is "enum", "bool", "int", "size" or
    "patterns". `low` and `high` bound a number or size, both inclusive.
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
        "What is given back, and by whose rules: ours, or WSL's three under their own names.",
    ),
    Setting(
        "idle_busy_percent",
        ("giveback.idleBusyPercent",),
        "int",
        "Up to this share of all CPUs' time counts as idle, unless something stalls. An open editor"
        " keeps a machine at 5 to 10 % busy: WSL's 0.5 % is never reached there.",
        low=1,
        high=100,
    ),
    Setting(
        "idle_window_s",
        ("giveback.idleWindow",),
        "int",
        "Seconds of idleness before a whole pass: short, so that memory is back soon; longer where"
        " work comes in bursts.",
        low=1,
        high=86400,
    ),
    Setting(
        "cache_floor_bytes",
        ("giveback.cacheFloor",),
        "size",
        "Page cache that is never taken, however cold: the programs and libraries in use. (Where a"
        " kernel can only drop all of it, that is done at urgency 3 alone, if the host names no"
        " amount, and by WSL's modes.) Half of WSL's own floor: what was read again is kept anyway."
        " The floor that is learned is never below it.",
        high=WSL_SIZE_MAX_BYTES,
    ),
    Setting(
        "lowest_report_order",
        ("giveback.lowestReportOrder",),
        "int",
        "How far a deep report may lower page_reporting_order, in powers of two of a page. With the"
        " kernel's own order (9 on x86) the order is left alone.",
        high=15,
    ),
    Setting(
        "swap",
        ("giveback.swap",),
        "bool",
        "Whether memory of programs may be reclaimed, too, where there is swap or zram: its way"
        " back is slower than that of cache.",
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
        "With false, all that only serves free page reporting is left out: compaction, deep report"
        " and every write to the report order. Cache is still released by the mode.",
    ),
    Setting(
        "idle_threshold",
        ("giveback.idleThreshold", "wsl2.idleThreshold"),
        "int",
        "0 turns compaction off. Any other value changes nothing: what WSL's modes call idle is"
        " below one tick per CPU and second already, and adaptive has its own measure.",
    ),
    Setting(
        "exclude",
        ("giveback.exclude",),
        "patterns",
        "Cgroups that nothing is taken from, nor trained in: services and containers whose latency counts"
        " more than their memory. What has ended is nobody's, and is taken all the same.",
    ),
)


def format_value(setting: Setting, value: object) -> str:
    """Write a value as a file would hold it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or NOTHING
    if setting.kind == "size" and isinstance(value, int):
        return format_wsl_size(value)
    return str(value)


def choices(key: str) -> tuple[str, ...]:
    """The words an enum key takes: WSL's key takes only what WSL takes."""
    return MODES if key.lower().startswith("giveback.") else WSL_MODES
