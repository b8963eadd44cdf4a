"""How the benchmark's report writes figures, names and verdicts. Pure.

Text from a guest or from a stored file goes through `escape_for_terminal` before it is shown.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import MIB
from giveback_lab.bench.analysis.metrics import PSI
from giveback_lab.bench.analysis.targets import RESIDUE_GRAIN, Verdict
from giveback_lab.bench.strategies import STRATEGIES
from giveback_lab.report.words import ram_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback_lab.bench.analysis.comparable import CellGroup, GroupSetting
    from giveback_lab.bench.analysis.statistics import Comparison, Spread
    from giveback_lab.bench.analysis.targets import TargetFinding
    from giveback_lab.bench.model import CellResult

MINUS, DASH, TIMES = "\u2212", "\u2013", "\u00d7"
HURTS = "\u2020"
"""Mark after the name of a strategy that hurts the workload."""
Unit = Literal["bytes", "GiB min", "s", "ratio", "share", "count"]

WORK_TITLES = {
    "build": "A build",
    "files": "Files unpacked, read, half of them deleted",
    "hogs": "Peaks of anonymous memory",
    "database": "A database with a hot set",
    "editor": "An editor that never stops",
    "three-staggered": "Three VMs on one host, staggered peaks",
    "three-aligned": "Three VMs on one host, peaks at once",
    "containers": "Containers, a service and a session that end",
    "service-30": "A service at a steady 30 % of its CPUs",
    "service-50": "A service at a steady 50 % of its CPUs",
    "service-70": "A service at a steady 70 % of its CPUs",
    "day": "A whole day: containers, a service, a database",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """How a field of the figures is shown."""

    field: str
    label: str
    unit: Unit


MEMORY = (
    Metric("footprint_after_gib_min", "footprint after the work", "GiB min"),
    Metric("footprint_work_gib_min", "footprint of the work", "GiB min"),
    Metric("peak_bytes", "peak", "bytes"),
    Metric("resident_idle_bytes", "resident after idle", "bytes"),
    Metric("residue_idle_bytes", "residue after idle", "bytes"),
    Metric("residue_cleaned_bytes", "residue after clean", "bytes"),
    Metric("residue_dropped_bytes", "residue after drop", "bytes"),
    Metric("returned_50_s", "50 % returned after", "s"),
    Metric("returned_90_s", "90 % returned after", "s"),
)
WORK = (
    Metric("work_s", "the work took", "s"),
    Metric("slow_ratio", "against none", "ratio"),
    Metric("reread_s", "re-read", "s"),
    Metric("reread_ratio", "re-read against none", "ratio"),
    Metric("reread_disk_bytes", "of it from disk", "bytes"),
    Metric("refault_work_pages", "refaults in the work", "count"),
    Metric("refault_after_pages", "refaults after", "count"),
    Metric("swap_out_pages", "pages swapped out", "count"),
    Metric("allocation_stalls", "allocation stalls", "count"),
    Metric("order9_failures", "order-9 failures", "count"),
    Metric("oom_kills", "OOM kills", "count"),
)
COST = (
    Metric("vmm_cpu_s", "VMM CPU, all", "s"),
    Metric("cpu_above_none_s", "above none", "s"),
    Metric("vmm_user_work_s", "user, work", "s"),
    Metric("vmm_system_work_s", "system, work", "s"),
    Metric("vmm_user_after_s", "user, after", "s"),
    Metric("vmm_system_after_s", "system, after", "s"),
    Metric("agent_cpu_s", "own CPU in the guest", "s"),
    Metric("agent_cpu_share", "share of one CPU", "share"),
    Metric("agent_memory_bytes", "own memory in the guest", "bytes"),
    Metric("compact_stalls", "compaction stalls", "count"),
)
RETURNS = (
    Metric("returned_bytes", "returned after the work", "bytes"),
    Metric("regret_bytes", "touched again within 60 s", "bytes"),
    Metric("regret_share", "share of it (regret)", "share"),
    Metric("host_faults_after_pages", "host faults until the next work", "count"),
    Metric("host_faults_next_pages", "host faults in the next work", "count"),
    Metric("again_s", "started again, took", "s"),
    Metric("requests_per_s", "requests a second", "count"),
    Metric("latency_p50_s", "latency, p50", "s"),
    Metric("latency_p99_s", "latency, p99", "s"),
)
STALLS = tuple(
    Metric(f"psi_{resource}_{kind}_{span}_s", f"{resource} {kind}, {span}", "s")
    for span in ("work", "after")
    for resource, kind in PSI
)
TABLES = (
    ("Memory on the host", MEMORY),
    ("What it did to the work", WORK),
    ("What a return costs later", RETURNS),
    ("What it cost", COST),
    ("Time stalled in the guest (PSI)", STALLS),
)
METRICS = {metric.field: metric for _, metrics in TABLES for metric in metrics}


def strategy_title(name: str) -> str:
    """Return the strategy's title, or its name if this giveback does not know it."""
    return STRATEGIES[name].title if name in STRATEGIES else name


def strategy_source(name: str) -> str:
    """Return where the strategy's rule and constants were published; empty if that is unknown."""
    return STRATEGIES[name].source if name in STRATEGIES else ""


def ordered(results: Sequence[CellResult]) -> list[CellResult]:
    """Return the results in the order of the report: as workloads and strategies are listed.

    Those that this giveback does not know come last, by name.
    """
    works = {name: rank for rank, name in enumerate(WORK_TITLES)}
    strategies = {name: rank for rank, name in enumerate(STRATEGIES)}

    def rank(result: CellResult) -> tuple[object, ...]:
        cell = result.cell
        series = [int(part) if part.isdigit() else 0 for part in cell.kernel.split(".")]
        return (
            *(works.get(cell.work, len(works)), cell.work, series, cell.mem_bytes),
            *(strategies.get(cell.strategy, len(strategies)), cell.strategy, cell.round),
        )

    return sorted(results, key=rank)


def work_title(work: str) -> str:
    """Return the workload's title of a few words."""
    return WORK_TITLES.get(work, escape_for_terminal(work, 60))


def setting_text(setting: GroupSetting) -> str:
    """Return kernel and memory: what all compared cells have in common besides the workload."""
    return f"Linux {escape_for_terminal(setting.kernel, 20)}, {ram_text(setting.mem_bytes)}"


def number(value: float, digits: int = 3) -> str:
    """Return a number with three digits, no exponent and a true minus: `0.42`, `12.7`, `1290`."""
    if value == 0:
        return "0"
    size = abs(value)
    after_point = next((d for d, top in ((3, 0.1), (2, 10), (1, 100)) if size < top), 0)
    text = f"{size:.{min(after_point, digits)}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) else text


_WRITTEN: dict[Unit, Callable[[float], str]] = {
    "bytes": lambda value: f"{value / MIB:.0f}".replace("-", MINUS),
    "GiB min": number,
    "s": number,
    "ratio": lambda value: f"{value:.3f}",
    "share": lambda value: f"{100 * value:.2f}",
    "count": lambda value: f"{value:.0f}",
}
UNIT_NAMES: dict[Unit, str] = {
    "bytes": "MiB",
    "GiB min": "GiB min",
    "s": "s",
    "ratio": TIMES,
    "share": "%",
    "count": "",
}


def written(value: float, unit: Unit) -> str:
    """Return a value without its unit, which `UNIT_NAMES` has."""
    return _WRITTEN[unit](value)


def with_unit(value: float, unit: Unit) -> str:
    """Return a value with its unit, separated by a non-breaking space."""
    name = UNIT_NAMES[unit]
    return f"{written(value, unit)}\u00a0{name}" if name else written(value, unit)


def range_text(spread: Spread, unit: Unit) -> str:
    """Return the range from least to greatest; empty for a single value or if all look the same."""
    low, high = written(spread.low, unit), written(spread.high, unit)
    return f"{low}{DASH}{high}" if spread.is_known and low != high else ""


def ratio_digits(ratio: float) -> str:
    """Return a ratio with two digits, or three if per cents matter."""
    return f"{ratio:.2f}" if ratio < 0.9 or ratio >= 2 else f"{ratio:.3f}"


def ratio_text(comparison: Comparison) -> str:
    """Return the ratio, with its interval in brackets."""
    middle = ratio_digits(comparison.ratio)
    if comparison.low is None or comparison.high is None:
        return f"{middle}\u00a0{TIMES}"
    digits = len(middle.partition(".")[2])
    low, high = max(0.0, comparison.low), comparison.high
    return f"{middle}\u00a0{TIMES} ({low:.{digits}f}{DASH}{high:.{digits}f})"


def difference_text(comparison: Comparison) -> str:
    """Return a ratio as a difference: `none`, `+3.1 %`, or for a single round `+3.1 %, one round`."""
    percent = f"{100 * (comparison.ratio - 1):+.1f} %".replace("-", MINUS)
    if comparison.differs is None:
        return f"{percent}, one round"
    return percent if comparison.differs else "none"


def figure_text(finding: TargetFinding) -> str:
    """Return both medians, their ratio and its interval."""
    comparison = finding.comparison
    if comparison is None:
        return "\u2014"
    unit = METRICS[finding.target.field].unit
    ours, theirs = with_unit(comparison.ours, unit), with_unit(comparison.theirs, unit)
    if finding.grain_bytes is not None:
        grain = with_unit(finding.grain_bytes, "bytes")
        share = f"{RESIDUE_GRAIN:.0%}".replace("%", "\u00a0%")
        return f"{ours} against {theirs}; up to {share} of RAM ({grain}) counts as none"
    said = f"{ours} against {theirs}: {ratio_text(comparison)}"
    if finding.target.limit >= 1 and comparison.differs is False:
        said += ", no difference outside the noise"
    return said


def counted(all_findings: Sequence[TargetFinding]) -> dict[Verdict, int]:
    """Count the targets of each verdict."""
    counting = [finding.verdict for finding in all_findings if finding.counts]
    return {verdict: counting.count(verdict) for verdict in Verdict}


def headline(all_findings: Sequence[TargetFinding]) -> str:
    """Return the verdicts in one sentence without a full stop."""
    counts = counted(all_findings)
    total = sum(counts.values())
    if counts[Verdict.UNMEASURED] == total:
        return "No target could be judged: giveback, or all others, were not measured"
    rest = [f"{counts[v]} {v}" for v in Verdict if v is not Verdict.MET and counts[v]]
    more = f", {', '.join(rest)}" if rest else ""
    return f"giveback meets {counts[Verdict.MET]} of {total} targets{more}"


def bench_command(results: Sequence[CellResult]) -> str:
    """Return the command that repeats the measurement, as far as the results record it."""
    cells = [result.cell for result in results]
    words = ["giveback", "bench"]
    for option, values in (
        ("--strategies", [cell.strategy for cell in cells]),
        ("--work", [cell.work for cell in cells]),
        ("--kernels", [cell.kernel for cell in cells]),
        ("--mem", [f"{cell.mem_bytes >> 20}M" for cell in cells]),
    ):
        if values:
            words += [option, ",".join(dict.fromkeys(values))]
    words += ["--runs", str(max((cell.round for cell in cells), default=1))]
    return shlex.join(words)


def several(groups: Sequence[CellGroup]) -> bool:
    """Return whether kernel or memory differ, so that a workload alone does not name a group."""
    return len({(g.setting.kernel, g.setting.mem_bytes) for g in groups}) > 1


def group_title(group: CellGroup, groups: Sequence[CellGroup]) -> str:
    """Return the group's name among these groups; with kernel and memory only if they differ."""
    title = work_title(group.setting.work)
    return f"{title} ({setting_text(group.setting)})" if several(groups) else title
