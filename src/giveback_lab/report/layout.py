"""The layout that every chart of a run shares: spans, ticks, and where each action is drawn. Pure.

`spread` and `pack` place labels so that they do not overlap; units are the caller's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_kernel.units import MIB
from giveback_lab.report.run import WorkPhase
from giveback_lab.report.words import action_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback_lab.report.run import DemoRun, MarkKind, RunMark, VmRun

# Okabe and Ito's palette: these two can be told apart with every kind of colour blindness.
PLAIN_COLOUR = "#D55E00"
GIVEBACK_COLOUR = "#0072B2"

SHORTEST_SPAN_S = 10.0
LONGEST_STEP_S = 3600
_STEPS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, LONGEST_STEP_S)


@dataclass(frozen=True, slots=True)
class LabelSpan:
    """The range of a chart's axes: seconds from `start_s` to `end_s`, bytes from 0 to `top_bytes`."""

    start_s: float
    end_s: float
    top_bytes: int
    step_bytes: int

    def x(self, t_s: float) -> float:
        """Return the position of a moment: 0 is the left edge, 1 the right one; clamped to the edges."""
        return min(1.0, max(0.0, (t_s - self.start_s) / (self.end_s - self.start_s)))

    def y(self, size_bytes: float) -> float:
        """Return the position of a size: 0 is the bottom, 1 the top."""
        return size_bytes / self.top_bytes


@dataclass(frozen=True, slots=True)
class ChartAction:
    """One or several like actions of the agent, so close that they are drawn as one.

    `label` is the text that all of them share, shortened, or empty if they differ.
    """

    kind: MarkKind
    start_s: float
    end_s: float
    count: int
    label: str


def span(run: DemoRun, most_byte_ticks: int) -> LabelSpan:
    """Return the span that holds all samples of the run; it is never empty."""
    times = [s.t_s for vm in run.vms for s in (vm.samples[:1] + vm.samples[-1:])]
    start_s, end_s = min(times, default=0.0), max(times, default=0.0)
    peak = max((s.resident_bytes for vm in run.vms for s in vm.samples), default=0)
    needed = max((vm.needed_bytes or 0 for vm in run.vms), default=0)
    most = max(int(1.05 * peak), needed, 16 * MIB)
    step = byte_step(most, most_byte_ticks)
    top = -(-most // step) * step
    return LabelSpan(start_s, max(end_s, start_s + SHORTEST_SPAN_S), top, step)


def byte_step(top_bytes: int, most_ticks: int) -> int:
    """Return the least power of two of bytes, from 1 MiB, that fits at most `most_ticks` times."""
    step = MIB
    while top_bytes > step * max(1, most_ticks):
        step *= 2
    return step


def time_ticks(start_s: float, end_s: float, most_ticks: int) -> list[int]:
    """Return round seconds from `start_s` to `end_s`, with 0 among them if it is inside."""
    wanted = (end_s - start_s) / max(1, most_ticks)
    step = next((s for s in _STEPS_S if s >= wanted), None)
    if step is None:
        step = math.ceil(wanted / LONGEST_STEP_S) * LONGEST_STEP_S
    first_s = math.ceil(start_s / step) * step
    # The smallest positive float, divided, is 0.
    first_s += step if first_s < start_s else 0
    return list(range(first_s, math.floor(end_s) + 1, step))


def byte_ticks(whole: LabelSpan) -> list[int]:
    """Return the sizes at which the span's axis has a line, with 0 and the top among them."""
    return list(range(0, whole.top_bytes + 1, whole.step_bytes))


def actions(marks: Sequence[RunMark], gap_s: float) -> list[ChartAction]:
    """Return the agent's marks in order of time; marks of one kind less than `gap_s` apart become one."""
    found: list[ChartAction] = []
    latest: dict[MarkKind, int] = {}
    for mark in sorted((m for m in marks if m.kind != "work-phase"), key=lambda m: m.t_s):
        index, said = latest.get(mark.kind), action_text(mark.kind, mark.label)
        if index is not None and mark.t_s - found[index].end_s <= gap_s:
            before = found[index]
            label = before.label if said == before.label else ""
            found[index] = ChartAction(mark.kind, before.start_s, mark.t_s, before.count + 1, label)
        else:
            latest[mark.kind] = len(found)
            found.append(ChartAction(mark.kind, mark.t_s, mark.t_s, 1, said))
    return found


def run_actions(run: DemoRun, gap_s: float) -> list[ChartAction]:
    """Return the actions of every agent of the run: in the demo only one VM has one."""
    return actions([mark for vm in run.vms for mark in vm.marks], gap_s)


def phases(run: DemoRun, now_s: float) -> list[WorkPhase]:
    """Return the workload's phases as one VM went through them; a running one ends at `now_s`.

    Both VMs run the same workload: the phases of the VM that got furthest stand for both.
    """
    furthest = max(run.vms, key=lambda vm: len(vm_phases(vm)), default=None)
    told = vm_phases(furthest) if furthest else []
    closed = [WorkPhase(p.name, p.start_s, now_s if p.end_s is None else p.end_s) for p in told]
    return [p for p in closed if p.end_s is not None and p.end_s > p.start_s]


def vm_phases(vm: VmRun) -> list[WorkPhase]:
    """Return the VM's phases. If only their beginnings were marked, each lasts until the next."""
    if vm.work_phases:
        return list(vm.work_phases)
    begun = [m for m in vm.marks if m.kind == "work-phase"]
    ends = [*(m.t_s for m in begun[1:]), vm.work_end_s]
    return [WorkPhase(m.label, m.t_s, end) for m, end in zip(begun, ends, strict=False)]


def work_end_s(run: DemoRun) -> float | None:
    """Return when the last VM's workload ended, in seconds, or None while one still runs."""
    ends = [vm.work_end_s for vm in run.vms]
    known = [e for e in ends if e is not None]
    return max(known) if known and len(known) == len(ends) else None


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move these positions as little as needed until neighbours are `gap` apart within low..high.

    If they cannot all fit, the gap becomes smaller; the bounds are always kept.
    """
    if not wanted:
        return []
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, max(0.0, high - low) / max(1, len(wanted) - 1))
    placed = [0.0] * len(wanted)
    least = low
    for index in order:
        placed[index] = max(wanted[index], least)
        least = placed[index] + gap
    most = high
    for index in reversed(order):
        placed[index] = min(placed[index], most)
        most = placed[index] - gap
    return placed


def pack(
    items: Sequence[tuple[float, float]], width: float, most_lanes: int, gap: float
) -> list[tuple[int, float] | None]:
    """Place labels, given as (centre, width), in lanes: (lane, left edge) each, or None without room.

    A label is shifted to stay within 0..width; lane 0 is filled first; earlier items have priority.
    """
    lanes: list[list[tuple[float, float]]] = []
    placed: list[tuple[int, float] | None] = []
    for centre, size in items:
        left = min(max(0.0, centre - size / 2), width - size)
        spot: tuple[int, float] | None = None
        if left >= 0:
            for lane in range(most_lanes):
                if lane == len(lanes):
                    lanes.append([])
                if all(left >= b + gap or left + size + gap <= a for a, b in lanes[lane]):
                    lanes[lane].append((left, left + size))
                    spot = (lane, left)
                    break
        placed.append(spot)
    return placed
