"""Believable results for the tests of `giveback_lab.bench`'s report: made up, seeded, not shipped."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hypothesis import settings

from giveback_lab.bench.model import Cell, CellMark, CellResult, CellSample, Counters, VmCourse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback_lab.bench.model import MarkName

# A loaded machine may take its time over an example.
patient = settings(deadline=None, max_examples=50)

MIB = 1 << 20
RAM_BYTES = 2048 * MIB
RESERVED_MIB, HOT_MIB = 120.0, 60.0
VERSIONS = {"giveback": "0.1.0", "QEMU": "10.0.8", "Linux": "6.12.48+deb13-amd64", "host": "2 CPUs"}


@dataclass(frozen=True)
class Shape:
    """How a strategy returns memory: free memory, what of it stays trapped, and cache.

    `wait_s` after the work's end the cache shrinks with `cache_half_s` down to `cache_kept` of the
    cold part; `keeps_hot` says whether the hot set stays. `slow` and `cpu_s` are what it costs.
    """

    free_half_s: float | None = None
    trapped: float = 1.0
    wait_s: float = 0.0
    cache_half_s: float | None = None
    cache_kept: float = 1.0
    keeps_hot: bool = True
    slow: float = 1.0
    cpu_s: float = 0.0
    agent_s: float | None = None


SHAPES: dict[str, Shape] = {
    "none": Shape(),
    "reporting": Shape(4, 0.42, slow=1.002, cpu_s=1),
    "order-0": Shape(3, 0.06, slow=1.11, cpu_s=19),
    "wsl-2019": Shape(4, 0.25, 60, 4, 0.0, keeps_hot=False, cpu_s=3, agent_s=0.9),
    "wsl-gen1-dropcache": Shape(4, 0.30, 90, 2, 0.0, keeps_hot=False, cpu_s=3, agent_s=0.5),
    "wsl-gen1-gradual": Shape(4, 0.32, 80, 30, 0.1, cpu_s=3.5, agent_s=0.6),
    "wsl-gen2-dropcache": Shape(4, 0.22, 12, 2, 0.0, keeps_hot=False, cpu_s=4, agent_s=0.6),
    "wsl-gen2-gradual": Shape(4, 0.24, 12, 18, 0.05, keeps_hot=False, cpu_s=4.4, agent_s=0.8),
    "kata-compact": Shape(4, 0.30, 30, None, slow=1.01, cpu_s=6, agent_s=1.5),
    "kata-memcg": Shape(4, 0.38, 40, 60, 0.3, cpu_s=5, agent_s=2.0),
    "senpai": Shape(4, 0.40, 5, 45, 0.2, slow=1.012, cpu_s=4, agent_s=2.5),
    "damon-reclaim": Shape(4, 0.42, 110, 50, 0.5, cpu_s=3),
    "damon-agentenv": Shape(4, 0.40, 20, 25, 0.2, cpu_s=4),
    "proxmox": Shape(12, 0.55, 8, 80, 0.5, slow=1.03, cpu_s=8),
    "proactive-20": Shape(4, 0.30, cpu_s=6, slow=1.01),
    "proactive-100": Shape(4, 0.20, cpu_s=14, slow=1.06),
    "giveback": Shape(3, 0.01, 5, 3, 0.03, slow=1.001, cpu_s=2.8, agent_s=0.4),
    "giveback-no-cache": Shape(3, 0.02, cpu_s=2.2, agent_s=0.3),
    "giveback-no-compaction": Shape(3, 0.05, 5, 3, 0.03, cpu_s=2.4, agent_s=0.3),
    "giveback-no-deep-report": Shape(3, 0.18, 5, 3, 0.03, cpu_s=2.3, agent_s=0.3),
    "giveback-no-floor": Shape(3, 0.02, 5, 3, 0.2, cpu_s=2.5, agent_s=0.3),
}
FEW = ("none", "reporting", "order-0", "wsl-gen2-dropcache", "wsl-gen2-gradual", "giveback")


@dataclass(frozen=True)
class Work:
    """`use`: (share of the time, MiB used); what is free, cold cache and non-free at its end, MiB."""

    work_s: float
    peak_mib: float
    free_mib: float
    cold_mib: float
    phases: tuple[tuple[MarkName, float], ...] = (("idle", 100.0),)
    hot: bool = True


HYPERALLOC: tuple[tuple[MarkName, float], ...] = (
    *(("idle", 100.0), ("clean", 3.0), ("cleaned", 100.0)),
    *(("drop", 1.0), ("dropped", 100.0)),
)
WORKS: dict[str, Work] = {
    "build": Work(120, 1750, 620, 700, HYPERALLOC, hot=False),
    "files": Work(70, 1500, 520, 640),
    "hogs": Work(60, 1600, 1290, 60, hot=False),
    "database": Work(90, 1300, 150, 700),
    "editor": Work(240, 900, 120, 480, hot=False),
    "three-staggered": Work(60, 1400, 900, 300, (("idle", 160.0),), hot=False),
    "three-aligned": Work(60, 1400, 900, 300, (("idle", 160.0),), hot=False),
}


def make_result(
    work: str = "files", strategy: str = "giveback", number: int = 1, seed: int = 1
) -> CellResult:
    """One cell; with three VMs where the work's name says so."""
    cell = Cell("6.12", RAM_BYTES, work, strategy, number)
    rng = random.Random(f"{seed} {cell.key}")
    drift = random.Random(f"{seed} round {number}").gauss(1.0, 0.02)
    starts_s = {"three-staggered": (0.0, 70.0, 140.0), "three-aligned": (0.0, 0.0, 0.0)}
    begins = starts_s.get(work, (0.0,))
    whole_s = max(begins) + 1.25 * WORKS[work].work_s
    whole_s += sum(length for _, length in WORKS[work].phases)
    vms = [
        make_course(f"vm{i}", work, SHAPES[strategy], (begin_s, whole_s), drift, rng)
        for i, begin_s in enumerate(begins)
    ]
    return CellResult(
        cell=cell,
        vms=tuple(vms),
        versions=VERSIONS,
        started_at=f"2026-11-2{number}T09:00:00+00:00",
        took_s=whole_s + 31,
        host_busy_share=round(rng.uniform(0.01, 0.06), 3),
    )


def make_results(
    works: Iterable[str] = ("files",),
    strategies: Iterable[str] = FEW,
    rounds: int = 3,
    seed: int = 1,
) -> list[CellResult]:
    """Cells in the order in which a benchmark runs them: strategies interleaved, round by round."""
    names = tuple(strategies)
    return [
        make_result(work, strategy, number, seed)
        for work in works
        for number in range(1, rounds + 1)
        for strategy in names
    ]


def make_course(
    name: str,
    work: str,
    shape: Shape,
    span_s: tuple[float, float],
    drift: float,
    rng: random.Random,
) -> VmCourse:
    """One VM's course: `span_s` is when its work begins, and how long the whole cell lasts."""
    plan = WORKS[work]
    begin_s = span_s[0]
    work_s = plan.work_s * shape.slow * drift * rng.gauss(1.0, 0.004)
    end_s = begin_s + work_s
    reread_s = (3.0 if shape.keeps_hot else 10.5) * drift * rng.gauss(1, 0.01) if plan.hot else None
    marks = [CellMark("work", begin_s, end_s)]
    now_s = end_s
    for phase, length_s in plan.phases:
        marks.append(CellMark(phase, now_s, now_s + length_s))
        now_s += length_s
    if reread_s is not None:
        marks.append(CellMark("reread", now_s, now_s + reread_s))
        now_s += reread_s
    last_s = max(now_s, span_s[1] if begin_s or "three" in work else now_s)
    samples = _samples(plan, shape, marks, last_s, rng)
    before, after_work, after = _counters(shape, work_s, rng)
    return VmCourse(
        name=name,
        ram_bytes=RAM_BYTES,
        samples=samples,
        marks=tuple(marks),
        work_s=work_s,
        reread_s=reread_s,
        reread_disk_bytes=None if reread_s is None else int(HOT_MIB * MIB * (not shape.keeps_hot)),
        needed_bytes=int((RESERVED_MIB + 90 + HOT_MIB * plan.hot) * MIB),
        before=before,
        after_work=after_work,
        after=after,
    )


def _samples(
    plan: Work, shape: Shape, marks: Sequence[CellMark], last_s: float, rng: random.Random
) -> tuple[CellSample, ...]:
    begin_s, end_s = marks[0].begin_s, marks[0].end_s
    dropped_s = next((m.begin_s for m in marks if m.name == "drop"), None)
    cleaned_s = next((m.begin_s for m in marks if m.name == "clean"), None)
    needed = RESERVED_MIB + 90.0 + HOT_MIB * plan.hot
    scale = rng.gauss(1, 0.015)
    samples = []
    for tick in range(-8, int(last_s) + 1):
        t_s = tick + rng.uniform(0, 0.05)
        if t_s < begin_s:
            used, free = RESERVED_MIB + 60.0, 20.0
        elif t_s < end_s:
            share = (t_s - begin_s) / (end_s - begin_s)
            swing = 0.2 * plan.free_mib * (1 - (4 * share % 1)) if shape.free_half_s else 0.0
            used = RESERVED_MIB + 60.0 + (needed + plan.cold_mib - RESERVED_MIB) * share**0.7
            free = plan.free_mib * min(1.0, 1.6 * share) - swing
        else:
            used, free = _after(plan, shape, t_s - end_s, needed)
            for event_s, cold in ((cleaned_s, 0.6), (dropped_s, 0.0)):
                if event_s is not None and t_s >= event_s:
                    kept = min(used, needed + cold * plan.cold_mib)
                    free += (used - kept) * _left(shape, t_s - event_s)
                    used = kept
        resident = min(RAM_BYTES, int((used + free) * scale * MIB + rng.uniform(0, 3 * MIB)))
        cpu_s = max(0.0, t_s - begin_s) if t_s < end_s else (end_s - begin_s) + 0.03 * (t_s - end_s)
        extra = shape.cpu_s * min(1.0, max(0.0, t_s - begin_s) / (last_s - begin_s))
        non_free = None if tick % 37 == 36 else int(used * scale * MIB)
        samples.append(
            CellSample(t_s, resident, 20 + 1.7 * cpu_s * scale + 0.6 * extra,
                   4 + 0.2 * cpu_s * scale + 0.4 * extra, non_free, None)
        )  # fmt: skip
    return tuple(samples)


def _after(plan: Work, shape: Shape, after_s: float, needed: float) -> tuple[float, float]:
    """MiB used and MiB free but resident, so long after the work's end."""
    cold = plan.cold_mib
    if shape.cache_half_s is not None and after_s > shape.wait_s:
        gone = 1 - 0.5 ** ((after_s - shape.wait_s) / shape.cache_half_s)
        cold *= 1 - (1 - shape.cache_kept) * gone
    let_go = (plan.cold_mib - cold) * _left(shape, 0.5 * max(0.0, after_s - shape.wait_s))
    hot = HOT_MIB if plan.hot and not shape.keeps_hot and after_s > shape.wait_s else 0.0
    return needed + cold - hot, plan.free_mib * _left(shape, after_s) + let_go


def _left(shape: Shape, after_s: float) -> float:
    """The share of free memory that still is resident."""
    if shape.free_half_s is None:
        return 1.0
    return shape.trapped + (1 - shape.trapped) * float(0.5 ** (after_s / shape.free_half_s))


def _counters(
    shape: Shape, work_s: float, rng: random.Random
) -> tuple[Counters, Counters, Counters]:
    refaults = rng.randrange(200, 900) * (4 if shape.slow > 1.02 else 1)
    before = Counters(
        refault_file_pages=10, refault_anon_pages=0, swap_in_pages=0, swap_out_pages=0,
        allocation_stalls=0, order9_failures=4, compact_stalls=1, read_bytes=200 * MIB,
        psi_some_us={"cpu": 1_000_000, "memory": 2_000, "io": 900_000},
        psi_full_us={"memory": 1_000, "io": 500_000},
        agent_cpu_s=None if shape.agent_s is None else 0.05,
        agent_memory_bytes=None if shape.agent_s is None else 9 * MIB, oom_kills=0,
    )  # fmt: skip
    after_work = replace(
        before,
        refault_file_pages=10 + refaults,
        order9_failures=4 + rng.randrange(0, 90),
        psi_some_us={"cpu": 1_000_000 + int(3e5 * work_s), "memory": 90_000, "io": 4_000_000},
        psi_full_us={"memory": 60_000, "io": 2_500_000},
        agent_cpu_s=None if shape.agent_s is None else 0.05 + 0.2 * shape.agent_s,
    )
    after = replace(
        after_work,
        refault_file_pages=10 + refaults + (0 if shape.keeps_hot else 15_000),
        read_bytes=300 * MIB,
        agent_cpu_s=None if shape.agent_s is None else 0.05 + shape.agent_s,
    )
    return before, after_work, after


def failed_result(
    work: str = "files", strategy: str = "damon-reclaim", number: int = 1
) -> CellResult:
    """A cell in which nothing could be measured."""
    whole = make_result(work, strategy, number)
    return replace(whole, vms=(), problems=(f"{strategy}: the guest has no DAMON_RECLAIM",))
