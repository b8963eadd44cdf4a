"""Believable runs for the tests of `giveback_lab.report`: made up, seeded, not shipped."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st

from giveback_kernel.units import MIB
from giveback_lab.report.run import MARK_KINDS, DemoRun, RunMark, RunSample, VmRun, WorkPhase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback_lab.report.run import VmName

# A loaded machine may take its time over an example.
patient = settings(deadline=None, max_examples=50)

WORK_END_S = 118.0
RESERVED_BYTES = 93 * MIB

PHASES = (
    WorkPhase("checkout", 0.0, 14.0),
    WorkPhase("build", 14.0, 46.0),
    WorkPhase("big test", 46.0, 64.0),
    WorkPhase("log", 64.0, 66.5),
    WorkPhase("run again", 66.5, 78.0),
    WorkPhase("two tests", 78.0, 99.0),
    WorkPhase("clean", 99.0, WORK_END_S),
)

# (seconds, MiB): resident where nothing ever goes back, resident with giveback, non-free.
BOOT = ((-24, 0), (-20, 90), (-12, 160), (0, 186))
PLAIN = (
    *BOOT,
    *((14, 520), (46, 705), (50, 1150), (64, 1244), (67, 1410), (78, 1415), (83, 1688)),
    *((99, 1700), (118, 1702), (240, 1703)),
)
GIVEBACK = (
    *BOOT,
    *((14, 516), (46, 700), (50, 1140), (62, 1236), (66, 905), (78, 930), (83, 1508), (96, 1500)),
    *((99, 1188), (118, 1150), (122, 1148), (128, 720), (132, 610), (138, 430), (160, 352)),
    *((190, 322), (240, 311)),
)
WORKING = (
    *((-24, 20), (0, 96), (14, 420), (46, 610), (50, 1050), (62, 1142), (66, 742), (78, 790)),
    *((83, 1390), (96, 1392), (99, 910), (118, 730)),
)
PLAIN_NON_FREE = (*WORKING, (240, 728))
GIVEBACK_NON_FREE = (*WORKING, (121, 728), (128, 330), (132, 196), (240, 195))

DMESG = (
    "[  142.018312] giveback: memory is idle, releasing 955 MiB",
    "[  148.730551] giveback: performing memory compaction",
    "[  151.204418] giveback: made 412 MiB contiguous (reportable 388 -> 800 MiB)",
    "[  181.991034] giveback: report order 9 restored, 839 MiB went back",
)


def _at(points: Sequence[tuple[float, float]], t_s: float) -> float:
    for (a_s, a), (b_s, b) in pairwise(points):
        if a_s <= t_s <= b_s:
            return a + (b - a) * (t_s - a_s) / (b_s - a_s)
    return points[-1][1]


def _samples(
    resident: Sequence[tuple[float, float]], non_free: Sequence[tuple[float, float]], seed: int
) -> tuple[RunSample, ...]:
    noise = random.Random(seed)
    return tuple(
        RunSample(
            t_s=t + noise.uniform(0, 0.05),
            resident_bytes=max(0, int((_at(resident, t) + noise.uniform(-3, 3)) * MIB)),
            non_free_bytes=None if t < -8 else int(_at(non_free, t) * MIB),
            reserved_bytes=None if t < -8 else RESERVED_BYTES,
            reportable_bytes=None if t < -8 else 300 * MIB,
            trapped_bytes=None if t < -8 else 120 * MIB,
            cache_bytes=None if t < -8 else 400 * MIB,
        )
        for t in range(-24, 241)
    )


def _giveback_marks() -> tuple[RunMark, ...]:
    reclaims = [
        RunMark(121.0 + 1.5 * i, "giveback", "reclaim", f"reclaim 64 MiB: cold cache, {i}")
        for i in range(8)
    ]
    return (
        *(RunMark(p.start_s, "giveback", "work-phase", p.name) for p in PHASES),
        *reclaims,
        RunMark(133.0, "giveback", "compact", "compact: 412 MiB is free but trapped"),
        RunMark(137.0, "giveback", "report", "report: nudged with 60 MiB"),
        RunMark(140.0, "giveback", "deep", "lower the report order to 5: idle"),
        RunMark(160.0, "giveback", "deep", "lower the report order to 0: idle"),
        RunMark(190.0, "giveback", "restore", "report order 9: the pass ended"),
    )


def make_vm(name: VmName) -> VmRun:
    """A whole run of one VM: boot from -24 s, work until 118 s, watched until 240 s."""
    plain = name == "plain"
    return VmRun(
        name=name,
        description="no page reporting, no agent" if plain else "page reporting and the agent",
        ram_bytes=2048 * MIB,
        samples=_samples(
            PLAIN if plain else GIVEBACK,
            PLAIN_NON_FREE if plain else GIVEBACK_NON_FREE,
            seed=len(name),
        ),
        marks=() if plain else _giveback_marks(),
        work_start_s=0.0,
        work_end_s=WORK_END_S if plain else WORK_END_S + 1.6,
        needed_bytes=(301 if plain else 298) * MIB,
        work_phases=PHASES,
        dmesg=() if plain else DMESG,
    )


def make_run(*names: VmName) -> DemoRun:
    """A whole run with these VMs, by default both."""
    return DemoRun(
        vms=tuple(make_vm(n) for n in names or ("plain", "giveback")),
        accel="tcg",
        qemu_version="7.2.17",
        kernel_release="6.1.0-40-cloud-amd64",
        host="Debian GNU/Linux 12, Linux 6.12.1, 2 CPUs",
        seed=1,
        cpus=2,
        started_at="2026-08-14T09:26:53+00:00",
        giveback_version="0.1.0",
    )


def cut(run: DemoRun, until_s: float) -> DemoRun:
    """The run as it stood at `until_s`: what a live chart sees, and what Ctrl-C leaves."""
    return replace(run, vms=tuple(_cut_vm(vm, until_s) for vm in run.vms))


def _cut_vm(vm: VmRun, until_s: float) -> VmRun:
    done = vm.work_end_s is not None and vm.work_end_s <= until_s
    return replace(
        vm,
        samples=tuple(s for s in vm.samples if s.t_s <= until_s),
        marks=tuple(m for m in vm.marks if m.t_s <= until_s),
        work_end_s=vm.work_end_s if done else None,
        needed_bytes=vm.needed_bytes if done else None,
        work_phases=tuple(
            replace(p, end_s=p.end_s if p.end_s is not None and p.end_s <= until_s else None)
            for p in vm.work_phases
            if p.start_s <= until_s
        ),
        dmesg=vm.dmesg if done else (),
    )


def runs() -> st.SearchStrategy[DemoRun]:
    """Any run that could be measured, and some that a hostile guest would like to be told."""
    names: list[tuple[VmName, ...]] = [("plain", "giveback"), ("giveback",), ("plain",), ()]
    return st.sampled_from(names).flatmap(
        lambda wanted: st.builds(
            DemoRun,
            vms=st.tuples(*(_vms(name) for name in wanted)),
            accel=st.sampled_from(["kvm", "tcg", "hvf<&"]),
            qemu_version=_TEXT,
            kernel_release=_TEXT,
            host=_TEXT,
            seed=st.integers(0, 1 << 32),
            cpus=st.integers(1, 512),
            started_at=st.just("2026-08-14T09:26:53+00:00"),
            giveback_version=_TEXT,
        )
    )


_TEXT = st.text(max_size=60)
_SIZES = st.integers(0, 64 << 30)
_TIMES = st.floats(-300, 5000)
_TOLD = st.none() | _SIZES
_SAMPLES = st.lists(
    st.builds(RunSample, _TIMES, _SIZES, _TOLD, _TOLD, _TOLD, _TOLD, _TOLD), max_size=12
)


def _vms(name: VmName) -> st.SearchStrategy[VmRun]:
    marks = st.lists(
        st.builds(RunMark, _TIMES, st.just(name), st.sampled_from(MARK_KINDS), _TEXT), max_size=12
    )
    phases = st.lists(st.builds(WorkPhase, _TEXT, _TIMES, st.none() | _TIMES), max_size=8)
    return st.builds(
        VmRun,
        name=st.just(name),
        description=_TEXT,
        ram_bytes=_SIZES,
        samples=_SAMPLES.map(lambda found: tuple(sorted(found, key=lambda s: s.t_s))),
        marks=marks.map(lambda found: tuple(sorted(found, key=lambda m: m.t_s))),
        work_start_s=st.floats(-1, 1),
        work_end_s=st.none() | st.floats(1, 5000),
        needed_bytes=_TOLD,
        work_phases=phases.map(tuple),
        dmesg=st.lists(_TEXT, max_size=3).map(tuple),
    )
