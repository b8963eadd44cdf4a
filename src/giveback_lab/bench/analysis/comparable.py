"""Group the cells that can be compared: by kernel, memory and workload. Say which do not count. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

from giveback_lab.bench.analysis.metrics import host_figures, mark, observed_after_s, vm_figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback_lab.bench.analysis.metrics import CellFigures
    from giveback_lab.bench.model import Cell, CellResult

NONE = "none"
OURS = "giveback"
SHORTEST_SHARE = 0.5
"""A cell watched, or at work, for less than this fraction of the others' time is incomplete."""
SITTING_S = 2 * 3600.0
"""If the sitting is unknown, cells of one workload and round with starts further apart are of two sittings.

Their bytes compare, their times do not: a machine drifts, and strategies that did not alternate ran under
different load. A round of the main strategies takes less time, even one cell after the other.
"""
TIMES = ("work_s", "reread_s", "vmm_cpu_s")
"""Figures that depend on the machine's speed at the time of the measurement."""


@dataclass(frozen=True, slots=True, order=True)
class GroupSetting:
    """The values that all compared cells have in common."""

    kernel: str
    mem_bytes: int
    work: str

    @property
    def key(self) -> str:
        """The name of the setting; the workload first, because readers search for it."""
        return f"{self.work}-{self.kernel}-{self.mem_bytes >> 20}M"

    @property
    def safe_key(self) -> str:
        """The same for file names and anchors: a value from a stored file may hold any character."""
        return re.sub(r"[^A-Za-z0-9.-]", "_", self.key)


@dataclass(frozen=True, slots=True)
class Measured:
    """A complete cell with its figures: of the host (its only VM, or all), and of each VM."""

    result: CellResult
    figures: CellFigures
    vms: tuple[CellFigures, ...]

    @property
    def strategy(self) -> str:
        """The name of the cell's strategy."""
        return self.result.cell.strategy

    @property
    def round(self) -> int:
        """The number of the cell's round, from 1."""
        return self.result.cell.round


@dataclass(frozen=True, slots=True)
class Failed:
    """A cell that does not count, and why."""

    cell: Cell
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CellGroup:
    """The cells of one setting. `after_s` is, per VM, the time after its workload that all cells share.

    `nones` are all complete cells of the `none` strategy. They include cells of earlier sittings
    (runs of the command) that `cells` has later ones of.
    """

    setting: GroupSetting
    cells: tuple[Measured, ...]
    failed: tuple[Failed, ...]
    after_s: tuple[float, ...]
    nones: tuple[Measured, ...] = ()

    @property
    def strategies(self) -> list[str]:
        """The strategies that were measured at least once, in the order of their first cells."""
        return list(dict.fromkeys(cell.strategy for cell in self.cells))

    @property
    def rounds(self) -> int:
        """The highest number of rounds that any strategy has."""
        return max((len(self.of(name)) for name in self.strategies), default=0)

    def of(self, strategy: str) -> list[Measured]:
        """Return a strategy's cells, by round."""
        return sorted((c for c in self.cells if c.strategy == strategy), key=lambda c: c.round)

    def values(self, strategy: str, field: str) -> dict[int, float]:
        """Return a figure of a strategy by round, where it was measured."""
        found = ((cell.round, getattr(cell.figures, field)) for cell in self.of(strategy))
        return {number: value for number, value in found if value is not None}

    def comparable(self, strategy: str, field: str, to: str) -> dict[int, float]:
        """Return `values`, with times scaled to the sitting of `to`'s cell of the same round.

        Within one sitting nothing changes. Otherwise a time is multiplied by the ratio of the two
        sittings' `none` cells, and left out if one of them has none.
        """
        if field not in TIMES:
            return self.values(strategy, field)
        mine = {cell.round: cell for cell in self.of(strategy)}
        found = {
            other.round: self._beside(mine[other.round], other, field)
            for other in self.of(to)
            if other.round in mine
        }
        return {number: value for number, value in found.items() if value is not None}

    def is_of_another_sitting(self, strategy: str, field: str) -> bool:
        """Return whether a time of the strategy was measured in another sitting than giveback's."""
        values = self.values(strategy, field)
        beside = self.comparable(strategy, field, OURS)
        return any(values[number] != value for number, value in beside.items())

    def baseline(self, field: str) -> list[float]:
        """Return the same figure of all cells of `none`: the noise in any difference.

        Times are multiples of their sitting's median. Differences between days are not noise within
        a round; compare within one round only. A sitting with one cell of `none` says nothing about
        noise.
        """
        if field not in TIMES:
            return list(self.values(NONE, field).values())
        found: list[float] = []
        for sitting in _sittings(self.nones):
            known = [v for one in sitting if (v := getattr(one.figures, field)) is not None]
            middle = median(known) if len(known) > 1 else 0.0
            found += [value / middle for value in known if middle > 0]
        return found

    def _beside(self, one: Measured, other: Measured, field: str) -> float | None:
        value: float | None = getattr(one.figures, field)
        if value is None or in_one_sitting(one.result, other.result):
            return value
        nones = [none_beside(self.nones, cell) for cell in (one, other)]
        here, there = (None if n is None else getattr(n.figures, field) for n in nones)
        return None if not here or not there else value * there / here


def _sittings(cells: Sequence[Measured]) -> list[list[Measured]]:
    found: list[list[Measured]] = []
    for cell in cells:
        near = (s for s in found if in_one_sitting(s[0].result, cell.result))
        sitting = next(near, None)
        if sitting is None:
            found.append([cell])
        else:
            sitting.append(cell)
    return found


def none_beside(nones: Sequence[Measured], cell: Measured) -> Measured | None:
    """Return the last of these cells of `none` of the same round and sitting as `cell`, or None."""
    return next((none for none in reversed(nones) if is_beside(none.result, cell.result)), None)


def is_beside(none: CellResult, other: CellResult) -> bool:
    """Return whether this cell of `none` is of the same setting, round and sitting as `other`."""
    return replace(other.cell, strategy=NONE) == none.cell and in_one_sitting(none, other)


def in_one_sitting(one: CellResult, other: CellResult) -> bool:
    """Return whether two cells' times compare; they do not if neither sitting nor start time is known."""
    if one.sitting and other.sitting:
        return one.sitting == other.sitting
    try:
        began = [datetime.fromisoformat(result.started_at) for result in (one, other)]
        return abs((began[0] - began[1]).total_seconds()) <= SITTING_S
    except (ValueError, TypeError):
        return False


def is_own(strategy: str) -> bool:
    """Return whether the strategy is giveback itself, complete or with a part switched off."""
    return strategy == OURS or strategy.startswith(f"{OURS}-")


def current(results: Sequence[CellResult]) -> list[CellResult]:
    """Return the last of several results of one cell; in the order of the first ones."""
    return list({result.cell.key: result for result in results}.values())


def groups(results: Sequence[CellResult]) -> list[CellGroup]:
    """Return all settings in the order of their first cells; the later of two results of a cell counts.

    Earlier results of `none` are kept as well: times measured in their sitting are compared with
    them.
    """
    by_setting: dict[GroupSetting, list[CellResult]] = {}
    for result in results:
        cell = result.cell
        by_setting.setdefault(GroupSetting(cell.kernel, cell.mem_bytes, cell.work), []).append(
            result
        )
    return [_group(setting, found) for setting, found in by_setting.items()]


def _group(setting: GroupSetting, results: list[CellResult]) -> CellGroup:
    counting = {id(result) for result in current(results)}
    results = [r for r in results if id(r) in counting or r.cell.strategy == NONE]
    failed = {id(r): reasons for r in results if (reasons := _not_whole(r))}
    failed |= {id(r): (why,) for r, why in _too_short([r for r in results if id(r) not in failed])}
    whole = [r for r in results if id(r) not in failed]
    after_s = _shared_after_s(whole)
    measured = []
    for result in whole:
        of_vms = tuple(vm_figures(vm, s) for vm, s in zip(result.vms, after_s, strict=False))
        measured.append(Measured(result, host_figures(result.vms, of_vms), of_vms))
    nones = tuple(m for m in measured if m.strategy == NONE)
    return CellGroup(
        setting,
        tuple(_against_none(m, nones) for m in measured if id(m.result) in counting),
        tuple(
            Failed(r.cell, (*r.problems, *failed[id(r)]))
            for r in results
            if id(r) in failed and id(r) in counting
        ),
        after_s,
        nones,
    )


def _not_whole(result: CellResult) -> tuple[str, ...]:
    if not result.vms:
        return ("nothing was measured",)
    reasons = []
    for vm in result.vms:
        if not vm.samples:
            reasons.append(f"{vm.name}: its memory was never read")
        elif mark(vm, "work") is None:
            reasons.append(f"{vm.name}: its work never ended")
    return tuple(reasons)


def _too_short(results: list[CellResult]) -> list[tuple[CellResult, str]]:
    """Return the cells that were watched, or worked, for much less time than the others."""
    watched = {id(r): min(observed_after_s(vm) or 0.0 for vm in r.vms) for r in results}
    worked = {id(r): sum(vm.work_s for vm in r.vms) for r in results}
    usual_watched = median(watched.values()) if watched else 0.0
    usual_worked = median(worked.values()) if worked else 0.0
    short = []
    for result in results:
        after_s, work_s = watched[id(result)], worked[id(result)]
        if after_s < SHORTEST_SHARE * usual_watched:
            why = f"watched for {after_s:.0f} s after its work, others for {usual_watched:.0f} s"
            short.append((result, why))
        elif work_s < SHORTEST_SHARE * usual_worked:
            why = f"its work took {work_s:.0f} s, that of others {usual_worked:.0f} s: not all done"
            short.append((result, why))
    return short


def _shared_after_s(results: list[CellResult]) -> tuple[float, ...]:
    most_vms = max((len(r.vms) for r in results), default=0)
    return tuple(
        min(observed_after_s(r.vms[i]) or 0.0 for r in results if len(r.vms) > i)
        for i in range(most_vms)
    )


def _against_none(one: Measured, nones: Sequence[Measured]) -> Measured:
    none = none_beside(nones, one)
    return one if none is None else replace(one, figures=_with_ratios(one.figures, none.figures))


def _with_ratios(figures: CellFigures, none: CellFigures) -> CellFigures:
    cpu_above = None
    if figures.vmm_cpu_s is not None and none.vmm_cpu_s is not None:
        cpu_above = figures.vmm_cpu_s - none.vmm_cpu_s
    return replace(
        figures,
        slow_ratio=_ratio(figures.work_s, none.work_s),
        reread_ratio=_ratio(figures.reread_s, none.reread_s),
        cpu_above_none_s=cpu_above,
    )


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs
