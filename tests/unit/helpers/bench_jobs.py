"""Jobs of the benchmark, and results for them, made without measuring."""

from __future__ import annotations

from pathlib import Path

from giveback_lab.bench.model import Cell, CellMark, CellResult, CellSample, Counters, VmCourse
from giveback_lab.bench.run.cell import CellSetting
from giveback_lab.bench.run.runner import CellJob
from giveback_lab.bench.strategies import STRATEGIES
from giveback_lab.bench.works import WORKS
from giveback_lab.images.image import Image
from giveback_lab.images.kernels import KernelFiles
from giveback_lab.vms.emulator import Emulator
from giveback_lab.vms.lab import Lab

MIB = 1 << 20


def job_of(strategy: str, release: str = "6.12.1") -> CellJob:
    lab = Lab(
        KernelFiles(Path("vmlinuz"), Path("modules"), release),
        Emulator(Path("qemu"), "10.0"),
        Image(Path("vmlinuz"), release, Path("initrd"), Path("root")),
    )
    cell = Cell("6.12", 1024 * MIB, "files", strategy, 1)
    setting = CellSetting(lab, "tcg", 2, 1, Path("logs"))
    return CellJob(cell, WORKS["files"], STRATEGIES[strategy], setting)


def result_of(job: CellJob) -> CellResult:
    samples = (CellSample(0.0, 100 * MIB, 0.0, 0.0), CellSample(9.0, 300 * MIB, 1.0, 1.0))
    course = VmCourse(
        "vm", 1024 * MIB, samples, (CellMark("work", 0.0, 9.0),), 9.0, None, None, None,
        Counters(), Counters(), Counters(),
    )  # fmt: skip
    return CellResult(job.cell, (course,), job.versions(), "2026-11-23", 60.0, 0.0)
