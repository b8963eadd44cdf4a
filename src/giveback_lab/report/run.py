"""A measured demo run and the figures derived from it.

Everything here is pure. Times are seconds since the workload of both VMs began; earlier times (the
boot) are negative. `giveback_lab.report.run_json` stores a run, the other modules here draw it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

# pydantic reads the annotations when it decodes a stored run.
from giveback_lab.report.decode import Bytes, Seconds, WholeNumber  # noqa: TC001
from giveback_lab.report.series import footprint_gib_min

if TYPE_CHECKING:
    from collections.abc import Sequence

VmName = Literal["plain", "giveback"]

MarkKind = Literal["reclaim", "compact", "report", "deep", "restore", "work-phase"]
MARK_KINDS: tuple[MarkKind, ...] = get_args(MarkKind)

RESIDUE_AFTER_S = 60.0
# Samples come each second, but a loaded host may skip some. A sample further away than this does
# not count for the requested moment.
NEAREST_SAMPLE_S = 5.0


@dataclass(frozen=True, slots=True)
class RunSample:
    """One sample of one VM. The guest's values are None if it did not answer in time."""

    t_s: Seconds
    resident_bytes: Bytes
    non_free_bytes: Bytes | None = None
    reserved_bytes: Bytes | None = None
    reportable_bytes: Bytes | None = None
    trapped_bytes: Bytes | None = None
    cache_bytes: Bytes | None = None

    @property
    def residue_bytes(self) -> int | None:
        """Resident less non-free less reserved: free in the guest, still held by the host.

        Host and guest are not read in the same instant, so it may be slightly negative.
        """
        if self.non_free_bytes is None or self.reserved_bytes is None:
            return None
        return self.resident_bytes - self.non_free_bytes - self.reserved_bytes


@dataclass(frozen=True, slots=True)
class RunMark:
    """An action of the agent, or the beginning of the workload, in one VM."""

    t_s: Seconds
    vm: VmName
    kind: MarkKind
    label: str


@dataclass(frozen=True, slots=True)
class WorkPhase:
    """A named part of the workload; `end_s` is None while it runs."""

    name: str
    start_s: Seconds
    end_s: Seconds | None


@dataclass(frozen=True, slots=True)
class VmRun:
    """All that was measured of one VM; samples and marks are in order of time.

    `needed_bytes` is what the VM needs at the end: reserved + non-reclaimable + hot set.
    """

    name: VmName
    description: str
    ram_bytes: Bytes
    samples: tuple[RunSample, ...] = ()
    marks: tuple[RunMark, ...] = ()
    work_start_s: Seconds = 0.0
    work_end_s: Seconds | None = None
    needed_bytes: Bytes | None = None
    work_phases: tuple[WorkPhase, ...] = ()
    dmesg: tuple[str, ...] = ()

    @property
    def work_s(self) -> float | None:
        """How long the workload took in seconds, or None if it never ended."""
        return None if self.work_end_s is None else self.work_end_s - self.work_start_s

    @property
    def observed_after_work_s(self) -> float | None:
        """How long the VM was measured after the workload's end, in seconds, or None if it was not."""
        if self.work_end_s is None or not self.samples:
            return None
        return max(0.0, self.samples[-1].t_s - self.work_end_s)


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One run of the demo: the same workload in one or two VMs, at the same time."""

    vms: tuple[VmRun, ...]
    accel: str
    qemu_version: str
    kernel_release: str
    host: str
    seed: WholeNumber
    cpus: WholeNumber
    started_at: str
    giveback_version: str

    def vm(self, name: VmName) -> VmRun | None:
        """Return the VM of that name, or None if it was left out."""
        return next((vm for vm in self.vms if vm.name == name), None)


@dataclass(frozen=True, slots=True)
class VmFigures:
    """The figures of one VM's run. None means not measured, or never happened.

    `returnable_bytes` is resident at the workload's end less what the VM needs. `half_back_s` and
    `ninety_back_s` are seconds from the workload's end until resident first was that much lower.
    `footprint_gib_min` is the integral of resident over `footprint_s` seconds after the workload's
    end: the same window for both VMs, so that they can be compared.
    """

    peak_bytes: int | None
    work_end_bytes: int | None
    resident_now_bytes: int | None
    non_free_now_bytes: int | None
    reserved_now_bytes: int | None
    residue_now_bytes: int | None
    residue_after_60_s_bytes: int | None
    returnable_bytes: int | None
    half_back_s: float | None
    ninety_back_s: float | None
    observed_after_work_s: float | None
    work_s: float | None
    slowdown_ratio: float | None
    footprint_gib_min: float | None
    footprint_s: float | None


def figures(vm: VmRun, baseline: VmRun | None = None, window_s: float | None = None) -> VmFigures:
    """Reduce a VM's run to its figures; `baseline` is the plain VM that it is compared with.

    `window_s` bounds the footprint; by default it is the time for which both were measured.
    """
    samples = vm.samples
    last = samples[-1] if samples else None
    told = _last_told(samples)
    end = _work_end_sample(vm)
    returnable = None
    if end is not None and vm.needed_bytes is not None:
        returnable = max(0, end.resident_bytes - vm.needed_bytes)
    window = (
        common_window_s((vm, *((baseline,) if baseline else ()))) if window_s is None else window_s
    )
    return VmFigures(
        peak_bytes=max((s.resident_bytes for s in samples), default=None),
        work_end_bytes=end.resident_bytes if end else None,
        resident_now_bytes=last.resident_bytes if last else None,
        non_free_now_bytes=told.non_free_bytes if told else None,
        reserved_now_bytes=told.reserved_bytes if told else None,
        residue_now_bytes=told.residue_bytes if told else None,
        residue_after_60_s_bytes=_residue_after(vm, RESIDUE_AFTER_S),
        returnable_bytes=returnable,
        half_back_s=_seconds_until_back(vm, 0.5, returnable),
        ninety_back_s=_seconds_until_back(vm, 0.9, returnable),
        observed_after_work_s=vm.observed_after_work_s,
        work_s=vm.work_s,
        slowdown_ratio=_slowdown(vm, baseline),
        footprint_gib_min=_footprint_gib_min(vm, window),
        footprint_s=window,
    )


def run_figures(run: DemoRun) -> tuple[VmFigures, ...]:
    """Return the figures of each VM of the run, in its order, over one common window."""
    plain = run.vm("plain")
    window_s = common_window_s(run.vms)
    return tuple(figures(vm, plain if vm is not plain else None, window_s) for vm in run.vms)


def common_window_s(vms: Sequence[VmRun]) -> float | None:
    """Return for how many seconds every one of these VMs was measured after its workload's end."""
    observed = [vm.observed_after_work_s for vm in vms]
    known = [o for o in observed if o is not None]
    return min(known) if known and len(known) == len(observed) else None


def _last_told(samples: Sequence[RunSample]) -> RunSample | None:
    """Return the guest's last values if they belong to the end; older ones must not be shown as 'now'."""
    for sample in reversed(samples):
        if sample.t_s < samples[-1].t_s - NEAREST_SAMPLE_S:
            return None
        if sample.residue_bytes is not None:
            return sample
    return None


def _work_end_sample(vm: VmRun) -> RunSample | None:
    """Return the last sample of the workload, or the first after it if there is none before."""
    if vm.work_end_s is None or not vm.samples:
        return None
    before = [s for s in vm.samples if s.t_s <= vm.work_end_s]
    return before[-1] if before else vm.samples[0]


def _residue_after(vm: VmRun, after_s: float) -> int | None:
    if vm.work_end_s is None:
        return None
    wanted_s = vm.work_end_s + after_s
    told = [s for s in vm.samples if s.residue_bytes is not None]
    nearest = min(told, key=lambda s: abs(s.t_s - wanted_s), default=None)
    if nearest is None or abs(nearest.t_s - wanted_s) > NEAREST_SAMPLE_S:
        return None
    return nearest.residue_bytes


def _seconds_until_back(vm: VmRun, fraction: float, returnable_bytes: int | None) -> float | None:
    end = _work_end_sample(vm)
    if end is None or vm.work_end_s is None or not returnable_bytes:
        return None
    enough_bytes = end.resident_bytes - fraction * returnable_bytes
    for sample in vm.samples:
        if sample.t_s >= vm.work_end_s and sample.resident_bytes <= enough_bytes:
            return sample.t_s - vm.work_end_s
    return None


def _slowdown(vm: VmRun, baseline: VmRun | None) -> float | None:
    if baseline is None or vm.work_s is None or not baseline.work_s:
        return None
    return vm.work_s / baseline.work_s


def _footprint_gib_min(vm: VmRun, window_s: float | None) -> float | None:
    if vm.work_end_s is None or window_s is None or not vm.samples:
        return None
    return footprint_gib_min(vm.samples, vm.work_end_s, vm.work_end_s + window_s)
