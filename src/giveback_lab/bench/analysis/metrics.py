"""Reduce one VM's course to figures, and combine the figures of several VMs on one host. Pure.

None means not measured, or never happened. Amounts are bytes unless their name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from giveback_lab.report.series import footprint_gib_min, resident_at, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback_lab.bench.model import (
        CellMark,
        CellSample,
        Counters,
        MarkName,
        MemoryFlow,
        VmCourse,
    )

HOST_PAGE_BYTES = 4096
SETTLED_S = 5.0
"""A mark's residue is the median of this many seconds before it: host and guest are read apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """All figures of one VM, or of all VMs of a cell.

    - `…_work…` covers the time while the VM worked, `…_after…` the time later. The latter is the same
      span for every cell of a workload, so that cells can be compared.
    - `returned_…_s`: from the workload's end until that percentage of `returnable_bytes` was returned.
    """

    ram_bytes: float
    peak_bytes: float | None = None
    work_end_bytes: float | None = None
    end_bytes: float | None = None
    needed_bytes: float | None = None
    returnable_bytes: float | None = None
    returned_50_s: float | None = None
    returned_90_s: float | None = None
    footprint_work_gib_min: float | None = None
    footprint_after_gib_min: float | None = None
    resident_idle_bytes: float | None = None
    residue_idle_bytes: float | None = None
    residue_cleaned_bytes: float | None = None
    residue_dropped_bytes: float | None = None
    vmm_user_work_s: float | None = None
    vmm_system_work_s: float | None = None
    vmm_user_after_s: float | None = None
    vmm_system_after_s: float | None = None
    vmm_cpu_s: float | None = None
    work_s: float | None = None
    reread_s: float | None = None
    reread_disk_bytes: float | None = None
    refault_work_pages: float | None = None
    refault_after_pages: float | None = None
    swap_in_pages: float | None = None
    swap_out_pages: float | None = None
    read_bytes: float | None = None
    allocation_stalls: float | None = None
    order9_failures: float | None = None
    compact_stalls: float | None = None
    oom_kills: float | None = None
    psi_cpu_some_work_s: float | None = None
    psi_memory_some_work_s: float | None = None
    psi_memory_full_work_s: float | None = None
    psi_io_some_work_s: float | None = None
    psi_io_full_work_s: float | None = None
    psi_cpu_some_after_s: float | None = None
    psi_memory_some_after_s: float | None = None
    psi_memory_full_after_s: float | None = None
    psi_io_some_after_s: float | None = None
    psi_io_full_after_s: float | None = None
    agent_cpu_s: float | None = None
    agent_cpu_share: float | None = None
    agent_memory_bytes: float | None = None
    host_faults_after_pages: float | None = None
    """The host's page faults on guest RAM, from the workload's end until the next request to the VM."""
    host_faults_next_pages: float | None = None
    """The same, during that next request."""
    returned_bytes: float | None = None
    regret_bytes: float | None = None
    regret_share: float | None = None
    """Of the memory returned after the workload's end, what was touched again within a minute."""
    again_s: float | None = None
    requests_per_s: float | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    slow_ratio: float | None = None
    reread_ratio: float | None = None
    cpu_above_none_s: float | None = None
    """The last three relative to `none` in the same round."""


FIELDS = tuple(spec.name for spec in fields(CellFigures))
_LATEST = ("returned_50_s", "returned_90_s")
_OF_THE_HOST = (
    *("regret_share", "latency_p50_s", "latency_p99_s"),
    "peak_bytes",
    "slow_ratio",
    "reread_ratio",
    "cpu_above_none_s",
)


def mark(course: VmCourse, name: MarkName) -> CellMark | None:
    """Return the VM's last mark of that name, or None."""
    return next((m for m in reversed(course.marks) if m.name == name), None)


def observed_after_s(course: VmCourse) -> float | None:
    """Return for how many seconds the VM was watched after its workload; None if that never ended."""
    work = mark(course, "work")
    if work is None or not course.samples:
        return None
    return max(0.0, course.samples[-1].t_s - work.end_s)


def host_resident(courses: Sequence[VmCourse]) -> list[tuple[float, float]]:
    """Return (seconds, resident bytes of all VMs together) for every time at which a VM was sampled.

    A VM counts as 0 before its first sample, and keeps its last value after its last sample.
    """
    moments = sorted({sample.t_s for course in courses for sample in course.samples})
    total = [0.0] * len(moments)
    for course in courses:
        if course.samples:
            first_s = course.samples[0].t_s
            for index, t_s in enumerate(moments):
                if t_s >= first_s:
                    total[index] += resident_at(course.samples, t_s)
    return list(zip(moments, total, strict=True))


def vm_figures(course: VmCourse, after_s: float) -> CellFigures:
    """Reduce a VM's course; `after_s` is the time after the workload's end that all cells share.

    Raises ValueError if the course has no samples or its workload never ended.
    """
    work, samples = mark(course, "work"), course.samples
    if work is None or not samples:
        raise ValueError(f"{course.name}: no samples, or no end of its work")
    end_s = work.end_s + after_s
    at_end = resident_at(samples, work.end_s)
    needed = course.needed_bytes
    returnable = None if needed is None else max(0.0, at_end - needed)
    return CellFigures(
        ram_bytes=course.ram_bytes,
        peak_bytes=max(s.resident_bytes for s in samples),
        work_end_bytes=at_end,
        end_bytes=resident_at(samples, end_s),
        needed_bytes=needed,
        returnable_bytes=returnable,
        returned_50_s=_until_returned(course, work.end_s, 0.5, returnable),
        returned_90_s=_until_returned(course, work.end_s, 0.9, returnable),
        footprint_work_gib_min=footprint_gib_min(samples, work.begin_s, work.end_s),
        footprint_after_gib_min=footprint_gib_min(samples, work.end_s, end_s),
        resident_idle_bytes=_settled(course, "idle", lambda s: s.resident_bytes),
        residue_idle_bytes=_residue(course, "idle"),
        residue_cleaned_bytes=_residue(course, "cleaned"),
        residue_dropped_bytes=_residue(course, "dropped"),
        **_vmm_cpu(samples, (work.begin_s, work.end_s, end_s)),
        work_s=course.work_s,
        reread_s=course.reread_s,
        reread_disk_bytes=course.reread_disk_bytes,
        **_guest_counts(course),
        **_stalls(course),
        **_agent(course, max(samples[-1].t_s - work.begin_s, 1.0)),
        **_flows(course, work.end_s),
        again_s=course.again_s,
        **_service(course),
    )


def host_figures(courses: Sequence[VmCourse], of_vms: Sequence[CellFigures]) -> CellFigures:
    """Return the figures of all VMs of a cell as their host sees them.

    They are sums, except the peak, which is the peak of the sum. A percentage counts as returned
    when the last VM has returned its own.
    """
    if len(of_vms) == 1:
        return of_vms[0]
    ram_bytes = sum(figures.ram_bytes for figures in of_vms)
    values: dict[str, Any] = {}
    for name in FIELDS:
        known = [value for figures in of_vms if (value := getattr(figures, name)) is not None]
        if name in _OF_THE_HOST or len(known) < len(of_vms):
            values[name] = None
        else:
            values[name] = max(known) if name in _LATEST else sum(known)
    values["ram_bytes"] = ram_bytes
    values["peak_bytes"] = max((total for _, total in host_resident(courses)), default=None)
    return CellFigures(**values)


NEXT: tuple[MarkName, ...] = ("clean", "again", "reread")
"""The first request that a VM may get after its idle time."""


def _flows(course: VmCourse, end_s: float) -> dict[str, float | None]:
    flows = course.flows
    if not flows:
        return {}

    def grown(from_s: float, until_s: float, value: Callable[[MemoryFlow], int]) -> float:
        return value_at(flows, until_s, value) - value_at(flows, from_s, value)

    last_s = flows[-1].t_s
    following = [m for m in course.marks if m.name in NEXT and m.begin_s >= end_s]
    first = min(following, key=lambda m: m.begin_s, default=None)
    idle_end_s = last_s if first is None else first.begin_s
    returned = grown(end_s, last_s, lambda flow: flow.returned_bytes)
    regret = grown(end_s, last_s, lambda flow: flow.regret_bytes)
    return {
        "host_faults_after_pages": grown(end_s, idle_end_s, _faulted) / HOST_PAGE_BYTES,
        "host_faults_next_pages": None
        if first is None
        else grown(first.begin_s, first.end_s, _faulted) / HOST_PAGE_BYTES,
        "returned_bytes": returned,
        "regret_bytes": regret,
        "regret_share": regret / returned if returned else None,
    }


def _faulted(flow: MemoryFlow) -> int:
    return flow.faulted_bytes


def _service(course: VmCourse) -> dict[str, float | None]:
    service = course.service
    if service is None or service.span_s <= 0:
        return {}
    return {
        "requests_per_s": service.requests / service.span_s,
        "latency_p50_s": service.p50_s,
        "latency_p99_s": service.p99_s,
    }


def _until_returned(
    course: VmCourse, end_s: float, share: float, returnable: float | None
) -> float | None:
    if not returnable:
        return None
    enough = resident_at(course.samples, end_s) - share * returnable
    later = (s for s in course.samples if s.t_s >= end_s and s.resident_bytes <= enough)
    first = next(later, None)
    return None if first is None else first.t_s - end_s


def _residue(course: VmCourse, name: MarkName) -> float | None:
    value = _settled(course, name, lambda sample: sample.residue_bytes)
    return None if value is None else max(0.0, value)


def _settled(
    course: VmCourse, name: MarkName, value: Callable[[CellSample], float | None]
) -> float | None:
    """Return the median of the last seconds of a span; None without such a span or without values."""
    span = mark(course, name)
    if span is None:
        return None
    begin_s = max(span.begin_s, span.end_s - SETTLED_S)
    told = [value(s) for s in course.samples if begin_s <= s.t_s <= span.end_s]
    known = [one for one in told if one is not None]
    return median(known) if known else None


def _vmm_cpu(
    samples: Sequence[CellSample], moments_s: tuple[float, float, float]
) -> dict[str, float | None]:
    user = [value_at(samples, t_s, lambda sample: sample.vmm_user_s) for t_s in moments_s]
    system = [value_at(samples, t_s, lambda sample: sample.vmm_system_s) for t_s in moments_s]
    return {
        "vmm_user_work_s": user[1] - user[0],
        "vmm_user_after_s": user[2] - user[1],
        "vmm_system_work_s": system[1] - system[0],
        "vmm_system_after_s": system[2] - system[1],
        "vmm_cpu_s": user[2] - user[0] + system[2] - system[0],
    }


def _guest_counts(course: VmCourse) -> dict[str, float | None]:
    before, after_work, after = course.before, course.after_work, course.after

    def whole(name: str) -> float | None:
        return _grown(getattr(before, name), getattr(after, name))

    return {
        "refault_work_pages": _grown(_refaults(before), _refaults(after_work)),
        "refault_after_pages": _grown(_refaults(after_work), _refaults(after)),
        **{
            name: whole(name)
            for name in (
                *("swap_in_pages", "swap_out_pages", "read_bytes", "allocation_stalls"),
                *("order9_failures", "compact_stalls", "oom_kills"),
            )
        },
    }


def _refaults(counters: Counters) -> int | None:
    if counters.refault_file_pages is None:
        return None
    return counters.refault_file_pages + (counters.refault_anon_pages or 0)


def _grown(before: float | None, after: float | None) -> float | None:
    """Return by how much a counter grew; None if it was not read, or was reset in between."""
    if before is None or after is None or after < before:
        return None
    return after - before


PSI: tuple[tuple[str, Literal["some", "full"]], ...] = (
    ("cpu", "some"),
    ("memory", "some"),
    ("memory", "full"),
    ("io", "some"),
    ("io", "full"),
)


def _stalls(course: VmCourse) -> dict[str, float | None]:
    spans = (("work", course.before, course.after_work), ("after", course.after_work, course.after))
    stalls: dict[str, float | None] = {}
    for name, first, last in spans:
        for resource, kind in PSI:
            of_first = first.psi_some_us if kind == "some" else first.psi_full_us
            of_last = last.psi_some_us if kind == "some" else last.psi_full_us
            grown_us = _grown(of_first.get(resource), of_last.get(resource))
            stalls[f"psi_{resource}_{kind}_{name}_s"] = None if grown_us is None else grown_us / 1e6
    return stalls


def _agent(course: VmCourse, watched_s: float) -> dict[str, float | None]:
    before_s, after_s = course.before.agent_cpu_s, course.after.agent_cpu_s
    used_s = None
    if after_s is not None:
        # A restarted process counts from 0 again.
        used_s = after_s - before_s if before_s is not None and before_s <= after_s else after_s
    return {
        "agent_cpu_s": used_s,
        "agent_cpu_share": None if used_s is None else used_s / watched_s,
        "agent_memory_bytes": course.after.agent_memory_bytes,
    }
