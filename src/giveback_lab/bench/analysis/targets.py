"""giveback's targets on each workload, compared with the best other strategy, and the verdicts. Pure.

The best other strategy is found by the median among all that are not giveback or a part of it. It
is found separately for each target, so giveback is compared with the best at exactly that. Some are
best because they take the workload's own memory away. Therefore the comparison is repeated with the
best of those that do not hurt the workload, but only the first verdict counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Literal

from giveback_kernel.units import MIB
from giveback_lab.bench.analysis.comparable import NONE, OURS, is_own
from giveback_lab.bench.analysis.statistics import compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback_lab.bench.analysis.comparable import CellGroup, GroupSetting
    from giveback_lab.bench.analysis.statistics import Comparison

HURTING_SLOW_RATIO = 1.05
HURTING_REREAD_RATIO = 1.5
HURTING_REREAD_BYTES = 16 << 20
"""Bytes re-read from disk beyond those of `none`; bytes compare across sittings."""
RESIDUE_GRAIN = 0.01
"""Fraction of RAM: less residue than this counts as none. The kernel itself varies more per second."""

Scope = Literal["best", "gentle", "fixed"]


class Verdict(StrEnum):
    """Whether a target is met."""

    MET = "met"
    MISSED = "missed"
    IN_NOISE = "inside the noise"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """A promise: the figure `field` is at most `limit` times the other's."""

    name: str
    title: str
    field: str
    limit: float
    against: Literal["best", "none", "wsl-gen2", "reporting"] = "best"
    staggered_only: bool = False

    @property
    def promise(self) -> str:
        """The target as text."""
        what = {
            "best": "the best other strategy",
            "none": "the same work with none",
            "wsl-gen2": "WSL gen 2 (the cheaper of its two modes)",
            "reporting": "reporting alone",
        }[self.against]
        return f"at most {self.limit:g} \u00d7 that of {what}"


TARGETS = (
    BenchTarget("footprint", "Footprint after the work", "footprint_after_gib_min", 0.6),
    BenchTarget("never-more", "Footprint never more", "footprint_after_gib_min", 1.0),
    BenchTarget("residue-idle", "Residue after idle", "residue_idle_bytes", 0.25),
    BenchTarget("residue-cleaned", "Residue after clean", "residue_cleaned_bytes", 0.25),
    BenchTarget("residue-dropped", "Residue after drop_caches", "residue_dropped_bytes", 0.25),
    BenchTarget("slowed", "The work's time", "work_s", 1.01, "none"),
    BenchTarget("reread", "Re-read after idle", "reread_s", 1.05, "none"),
    BenchTarget("cpu", "CPU of the VM's process", "vmm_cpu_s", 1.0, "wsl-gen2"),
    BenchTarget("host-peak", "Host's peak", "peak_bytes", 0.85, "reporting", staggered_only=True),
)


@dataclass(frozen=True, slots=True)
class TargetFinding:
    """A target on one workload. `against` is the strategy that it was compared with.

    `scope`: "best" of all others, the best "gentle" one, or one that the target names ("fixed").
    Only "gentle" does not count. `remark` is a sentence or empty.
    """

    setting: GroupSetting
    target: BenchTarget
    scope: Scope
    verdict: Verdict
    against: str | None = None
    comparison: Comparison | None = None
    remark: str = ""
    grain_bytes: float | None = None
    """The limit in bytes, if the other's residue is so small that an absolute limit applies."""

    @property
    def counts(self) -> bool:
        """Whether this is the verdict on the target, not the additional comparison."""
        return self.scope != "gentle"


def findings(all_groups: Sequence[CellGroup]) -> list[TargetFinding]:
    """Return every target on every setting where it applies, in the order of the settings."""
    return [one for group in all_groups for target in TARGETS for one in _judge(group, target)]


def harm(group: CellGroup, strategy: str) -> tuple[str, ...]:
    """Return how a strategy hurts the workload, as text; empty if it does not, or if that is unknown."""
    found = []
    slow = _times_none(group, strategy, "work_s")
    if slow > HURTING_SLOW_RATIO:
        found.append(f"slows the work by {100 * (slow - 1):.0f} %")
    reread = _times_none(group, strategy, "reread_s")
    if reread > HURTING_REREAD_RATIO:
        found.append(f"re-reads {reread:.1f} times as long")
    disk, of_none = (
        _median(group.values(name, "reread_disk_bytes").values()) for name in (strategy, NONE)
    )
    if disk is not None and disk > (of_none or 0.0) + HURTING_REREAD_BYTES:
        found.append(f"re-reads {disk / MIB:.0f} MiB from disk")
    kills = sum(group.values(strategy, "oom_kills").values())
    if kills > sum(group.values(NONE, "oom_kills").values()):
        found.append(f"{kills:.0f} processes killed for want of memory")
    return tuple(found)


def _times_none(group: CellGroup, strategy: str, field: str) -> float:
    """Return a time as a multiple of `none`'s; 1 if it is unknown or not above the noise."""
    none = group.values(NONE, field)
    comparison = compare(group.comparable(strategy, field, NONE), none, group.baseline(field))
    if comparison is None or (comparison.low is not None and comparison.low <= 1.0):
        return 1.0
    return comparison.ratio


def other_strategies(group: CellGroup) -> list[str]:
    """Return the strategies that giveback is compared with."""
    return [name for name in group.strategies if not is_own(name)]


def best_by(group: CellGroup, names: Iterable[str], field: str) -> str | None:
    """Return the strategy with the least median, the first of equals, or None if none was measured.

    Times are those comparable with giveback's cells, where they are known.
    """

    def value_of(name: str) -> float | None:
        beside = group.comparable(name, field, OURS)
        return _median((beside or group.values(name, field)).values())

    known = [(value, name) for name in names if (value := value_of(name)) is not None]
    return min(known, key=lambda pair: pair[0], default=(0.0, None))[1]


def _judge(group: CellGroup, target: BenchTarget) -> list[TargetFinding]:
    if not _applies(group, target):
        return []
    if target.against != "best":
        names = [name for name in other_strategies(group) if name.startswith(target.against)]
        if target.against != "wsl-gen2":
            names = [name for name in names if name == target.against]
        names = [n for n in names if group.comparable(n, target.field, OURS)] or names
        return [_finding(group, target, "fixed", best_by(group, names, target.field))]
    best = best_by(group, other_strategies(group), target.field)
    found = [_finding(group, target, "best", best)]
    gentle = best_by(
        group, (n for n in other_strategies(group) if not harm(group, n)), target.field
    )
    if gentle not in (None, best) and found[0].comparison is not None:
        found.append(_finding(group, target, "gentle", gentle))
    return found


def _applies(group: CellGroup, target: BenchTarget) -> bool:
    """Return whether the workload has what the target is about, judging by any strategy's cells."""
    if target.staggered_only:
        return "stagger" in group.setting.work
    return any(group.values(name, target.field) for name in group.strategies)


def _finding(
    group: CellGroup, target: BenchTarget, scope: Scope, against: str | None
) -> TargetFinding:
    ours = group.values(OURS, target.field)
    if not ours or against is None:
        lacking = OURS if not ours else _wanted(target)
        remark = f"{lacking} was not measured here"
        return TargetFinding(
            group.setting, target, scope, Verdict.UNMEASURED, against, remark=remark
        )
    theirs = group.comparable(against, target.field, OURS)
    floor = _floor(group, target)
    floored = {number: max(value, floor) for number, value in theirs.items()}
    comparison = compare(ours, floored, group.baseline(target.field))
    if comparison is None:
        remark = f"no round has both {OURS} and {against}"
        if ours.keys() & group.values(against, target.field).keys():
            remark = f"{against} was not measured in turns with {OURS}: times do not compare"
        return TargetFinding(
            group.setting, target, scope, Verdict.UNMEASURED, against, remark=remark
        )
    return TargetFinding(
        group.setting,
        target,
        scope,
        _verdict(comparison, target.limit),
        against,
        replace(comparison, theirs=median(theirs.values())),
        _remark(group, target, scope, against, comparison),
        floor * target.limit if median(theirs.values()) < floor else None,
    )


def _wanted(target: BenchTarget) -> str:
    return "any other strategy" if target.against == "best" else target.against


def _floor(group: CellGroup, target: BenchTarget) -> float:
    """Return the least value that counts for the other, so that a negligible residue always suffices."""
    if not target.field.startswith("residue"):
        return 0.0
    ram_bytes = max((cell.figures.ram_bytes for cell in group.cells), default=0.0)
    return RESIDUE_GRAIN * ram_bytes / target.limit


def _verdict(comparison: Comparison, limit: float) -> Verdict:
    """Return met or missed if the whole interval is; from the figure alone if the noise is unknown."""
    low = comparison.ratio if comparison.low is None else comparison.low
    high = comparison.ratio if comparison.high is None else comparison.high
    if high <= limit:
        return Verdict.MET
    return Verdict.MISSED if low > limit else Verdict.IN_NOISE


def _remark(
    group: CellGroup, target: BenchTarget, scope: Scope, against: str, comparison: Comparison
) -> str:
    said = []
    if comparison.low is None:
        said.append("one round, no spread known")
    elif comparison.count == 2:
        said.append("two rounds, which agree by chance as often as not")
    if scope == "gentle":
        said.append("the best of those that do not hurt the work")
    elif target.against == "best":
        said += [f"{against} {how}" for how in harm(group, against)]
    if against != NONE and group.is_of_another_sitting(against, target.field):
        said.append(f"{against} was measured in another sitting: both as multiples of their none's")
    if any(cell.result.problems for cell in (*group.of(OURS), *group.of(against))):
        said.append("some of these cells had problems, see below")
    return "; ".join(said)


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None
