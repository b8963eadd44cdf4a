"""The figures of a VM's course."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_results import MIB, make_result, patient
from hypothesis import given
from hypothesis import strategies as st

from giveback_lab.bench.analysis.metrics import (
    CellFigures,
    host_figures,
    host_resident,
    observed_after_s,
    vm_figures,
)
from giveback_lab.bench.model import CellMark, CellSample, Counters, VmCourse
from giveback_lab.report.series import footprint_gib_min, resident_at

NOTHING = Counters()


def sample(
    t_s: float, mib: float, non_free_mib: float | None = None, cpu_s: float = 0.0
) -> CellSample:
    non_free = None if non_free_mib is None else int(non_free_mib * MIB)
    return CellSample(t_s, int(mib * MIB), cpu_s, 0.5 * cpu_s, non_free)


def course(
    *samples: CellSample, marks: tuple[CellMark, ...] = (), needed_mib: float | None = 100
) -> VmCourse:
    return VmCourse(
        name="vm",
        ram_bytes=2048 * MIB,
        samples=samples,
        marks=(CellMark("work", 0.0, 10.0), *marks),
        work_s=10.0,
        reread_s=None,
        reread_disk_bytes=None,
        needed_bytes=None if needed_mib is None else int(needed_mib * MIB),
        before=NOTHING,
        after_work=NOTHING,
        after=NOTHING,
    )


FALLING = course(
    *(sample(0, 200), sample(10, 1100), sample(20, 700), sample(30, 300), sample(40, 180)),
    sample(70, 180),
)


def test_footprint_is_memory_times_time() -> None:
    level = course(sample(0, 1024), sample(130, 1024))
    figures = vm_figures(level, 120)
    assert figures.footprint_after_gib_min == pytest.approx(2.0)
    assert figures.footprint_work_gib_min == pytest.approx(1 / 6)


def test_the_footprint_covers_the_shared_span_only() -> None:
    figures = vm_figures(FALLING, 10)
    assert figures.footprint_after_gib_min == pytest.approx(900 / 1024 * 10 / 60)
    assert figures.end_bytes == 700 * MIB


def test_what_is_returnable_and_when_it_was_returned() -> None:
    figures = vm_figures(FALLING, 60)
    assert figures.returnable_bytes == 1000 * MIB
    assert figures.returned_50_s == 20
    assert figures.returned_90_s == 30


def test_a_share_that_never_was_returned() -> None:
    figures = vm_figures(replace(FALLING, needed_bytes=10 * MIB), 60)
    assert figures.returned_50_s == 20
    less = vm_figures(course(sample(0, 500), sample(10, 500), sample(60, 490)), 50)
    assert less.returned_50_s is None
    assert less.returned_90_s is None


def test_without_what_is_needed_nothing_is_said_of_returning() -> None:
    figures = vm_figures(course(sample(0, 500), sample(60, 490), needed_mib=None), 50)
    assert figures.returnable_bytes is None
    assert figures.returned_50_s is None


def test_residue_is_that_of_the_spans_end() -> None:
    marks = (CellMark("idle", 10, 30), CellMark("clean", 30, 31), CellMark("cleaned", 31, 50))
    samples = [sample(t, 900, 100) for t in range(10, 26)]
    samples += [sample(t, 400, 380) for t in (26, 27, 29, 30)]
    samples += [sample(t, 300, 310) for t in range(46, 51)]
    figures = vm_figures(course(*samples, marks=marks), 40)
    assert figures.residue_idle_bytes == 20 * MIB
    assert figures.residue_cleaned_bytes == 0
    assert figures.residue_dropped_bytes is None
    assert figures.resident_idle_bytes == 400 * MIB


def test_a_silent_guest_has_no_residue() -> None:
    silent = course(sample(0, 100, 50), sample(40, 90), marks=(CellMark("idle", 10, 40),))
    assert vm_figures(silent, 30).residue_idle_bytes is None


def test_cpu_of_the_work_and_of_the_same_span_after_it() -> None:
    busy = course(sample(-5, 1, cpu_s=3), sample(0, 1, cpu_s=5), sample(10, 1, cpu_s=25),
                  sample(20, 1, cpu_s=26), sample(30, 1, cpu_s=28))  # fmt: skip
    figures = vm_figures(busy, 10)
    assert figures.vmm_user_work_s == pytest.approx(20)
    assert figures.vmm_system_work_s == pytest.approx(10)
    assert figures.vmm_user_after_s == pytest.approx(1)
    assert figures.vmm_cpu_s == pytest.approx(31.5)


def test_counters_are_differences_and_unread_or_reset_ones_are_not_known() -> None:
    before = Counters(refault_file_pages=5, allocation_stalls=9, psi_some_us={"memory": 1_000_000})
    later = Counters(refault_file_pages=25, refault_anon_pages=1, allocation_stalls=2,
                     psi_some_us={"memory": 3_500_000}, psi_full_us={"memory": 7})  # fmt: skip
    counted = replace(FALLING, before=before, after_work=later, after=later)
    figures = vm_figures(counted, 30)
    assert figures.refault_work_pages == 21
    assert figures.refault_after_pages == 0
    assert figures.allocation_stalls is None
    assert figures.psi_memory_some_work_s == pytest.approx(2.5)
    assert figures.psi_memory_full_work_s is None
    assert figures.oom_kills is None


def test_the_agents_cpu_whether_or_not_it_was_there_before() -> None:
    after = Counters(agent_cpu_s=1.5, agent_memory_bytes=9 * MIB)
    for before_s, used_s in ((0.5, 1.0), (None, 1.5), (7.0, 1.5)):
        seen = replace(FALLING, before=Counters(agent_cpu_s=before_s), after=after)
        assert vm_figures(seen, 30).agent_cpu_s == pytest.approx(used_s)
    assert vm_figures(FALLING, 30).agent_cpu_share is None


def test_a_course_without_end_is_refused() -> None:
    endless = replace(FALLING, marks=())
    with pytest.raises(ValueError, match="work"):
        vm_figures(endless, 10)
    assert observed_after_s(endless) is None


def test_three_vms_peak_together_not_each() -> None:
    result = make_result("three-staggered", "giveback")
    of_vms = [vm_figures(vm, 100) for vm in result.vms]
    host = host_figures(result.vms, of_vms)
    peaks = [figures.peak_bytes or 0 for figures in of_vms]
    assert host.peak_bytes is not None
    assert max(peaks) < host.peak_bytes < 0.9 * sum(peaks)
    assert host.footprint_after_gib_min == pytest.approx(
        sum(figures.footprint_after_gib_min or 0 for figures in of_vms)
    )
    assert host.returned_90_s == max(figures.returned_90_s or 0 for figures in of_vms)


def test_what_one_vm_lacks_the_host_does_not_know() -> None:
    vm = course(sample(0, 100), sample(60, 90))
    with_it = CellFigures(ram_bytes=1, reread_s=2.0)
    without = CellFigures(ram_bytes=1)
    assert host_figures((vm, vm), (with_it, without)).reread_s is None
    assert host_figures((vm, vm), (with_it, with_it)).reread_s == 4.0


steps = st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 4096)), min_size=2, max_size=30)


def walked(found: list[tuple[float, int]]) -> tuple[CellSample, ...]:
    now_s, samples = 0.0, []
    for step_s, mib in found:
        now_s += step_s
        samples.append(sample(now_s, mib))
    return tuple(samples)


@patient
@given(steps, st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_footprints_add_up_and_stay_within_bounds(
    found: list[tuple[float, int]], a_s: float, b_s: float, c_s: float
) -> None:
    samples = walked(found)
    begin_s, middle_s, end_s = sorted((a_s, b_s, c_s))
    whole = footprint_gib_min(samples, begin_s, end_s)
    parts = footprint_gib_min(samples, begin_s, middle_s) + footprint_gib_min(
        samples, middle_s, end_s
    )
    assert whole == pytest.approx(parts, abs=1e-9)
    sizes = [s.resident_bytes / (1 << 30) for s in samples]
    minutes = (end_s - begin_s) / 60
    assert min(sizes) * minutes - 1e-9 <= whole <= max(sizes) * minutes + 1e-9


@patient
@given(steps, st.floats(-10, 700))
def test_resident_is_within_what_was_read(found: list[tuple[float, int]], t_s: float) -> None:
    samples = walked(found)
    sizes = [s.resident_bytes for s in samples]
    assert min(sizes) <= resident_at(samples, t_s) <= max(sizes)


@patient
@given(st.lists(steps, min_size=1, max_size=4))
def test_the_hosts_sum_is_never_above_the_sum_of_peaks(
    found: list[list[tuple[float, int]]],
) -> None:
    courses = [course(*walked(one)) for one in found]
    peaks = [max(s.resident_bytes for s in vm.samples) for vm in courses]
    total = max(size for _, size in host_resident(courses))
    assert max(peaks) - 1 <= total <= sum(peaks) + 1
