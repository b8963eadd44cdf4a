"""`giveback bench` on real VMs: one short cell, stored, found again, and cleaned up."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from giveback_lab.bench import works
from giveback_lab.bench.analysis.metrics import mark
from giveback_lab.bench.model import Cell, CellResult, VmCourse
from giveback_lab.bench.run.cell import CellSetting
from giveback_lab.bench.run.runner import CellJob, run_all, to_do
from giveback_lab.bench.run.store import Store
from giveback_lab.bench.strategies import STRATEGIES
from giveback_lab.images.image import build_image
from giveback_lab.vms.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback_lab.vms.accel import Accel

MIB = 1 << 20
MEM_BYTES = 512 * MIB
IDLE_S = 8.0
# A sample takes a moment; the guest sends its own values only every ten seconds.
SOON_S = 2.0


def by_work(result: CellResult) -> str:
    return result.cell.work


def resident_at(vm: VmCourse, t_s: float) -> int:
    return min(vm.samples, key=lambda sample: abs(sample.t_s - t_s)).resident_bytes


def moved_near(vm: VmCourse, t_s: float) -> int:
    """By how much resident memory changed around that time: a scan and a sample are never at one moment."""
    near = [one.resident_bytes for one in vm.samples if abs(one.t_s - t_s) <= 2 * SOON_S]
    return max(near, default=0) - min(near, default=0)


@pytest.fixture
def vms_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder of this test's VMs: other tests run VMs at the same time."""
    with tempfile.TemporaryDirectory(prefix="giveback-bench-") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def test_two_cells_overlap_and_are_stored_whole(
    lab: Lab, accel: Accel, tmp_path: Path, vms_folder: Path
) -> None:
    # A workload that needs no compiler needs no disk with one.
    few = replace(works.EXTRAS, packages=(), sources=())
    guests = Lab(lab.kernel, lab.emulator, build_image(lab.kernel, few))
    setting = CellSetting(guests, accel.name, 2, 1, tmp_path / "logs")
    jobs = [
        CellJob(
            Cell("6.12", MEM_BYTES, work, name, 1),
            works.shortened(works.WORKS[work], IDLE_S), STRATEGIES[name], setting,
        )
        for work, name in (("files", "none"), ("hogs", "reporting"))
    ]  # fmt: skip
    store = Store(tmp_path)
    store.make()
    said: list[str] = []
    results = asyncio.run(run_all(jobs, store, 2, said.append))
    assert list(vms_folder.iterdir()) == []
    assert to_do(jobs, store, said.append) == []
    assert sorted(store.read_all()[0], key=lambda r: r.cell.key) == sorted(
        results, key=lambda r: r.cell.key
    )
    for result in results:
        assert result.problems == ()
        (vm,) = result.vms
        again = ["reread"] if result.cell.work == "files" else []
        assert [one.name for one in vm.marks] == ["work", "idle", *again]
        work_mark, idle = mark(vm, "work"), mark(vm, "idle")
        assert work_mark is not None
        assert idle is not None
        assert 0 <= work_mark.begin_s < 1.0
        # Both are rounded to a millisecond, by themselves.
        assert abs(idle.begin_s - work_mark.end_s) < 0.01
        assert vm.samples[0].t_s < 0
        assert [s.t_s for s in vm.samples] == sorted(s.t_s for s in vm.samples)
        # The guest is sampled where it matters, and otherwise so rarely that it can be idle.
        told = [s.t_s for s in vm.samples if s.non_free_bytes is not None]
        for moment_s in (work_mark.end_s, idle.end_s):
            assert any(abs(t_s - moment_s) < SOON_S for t_s in told)
        assert len(told) < len(vm.samples) // 3
        assert vm.work_s > 0
        assert (vm.reread_s is not None) == bool(again)
        assert vm.needed_bytes is not None
        assert 0 < vm.needed_bytes < MEM_BYTES // 2
        assert (vm.after.read_bytes or 0) >= (vm.before.read_bytes or 0)
        flow = vm.flows[-1]
        assert [f.t_s for f in vm.flows] == sorted(f.t_s for f in vm.flows)
        # Faulted minus returned is the growth of resident memory from the first scan to the last. On a
        # busy machine those are seconds away from the first sample and the last.
        since = vm.flows[0]
        grown = resident_at(vm, flow.t_s) - resident_at(vm, since.t_s)
        kept_bytes = (flow.faulted_bytes - since.faulted_bytes) - (
            flow.returned_bytes - since.returned_bytes
        )
        moved_bytes = moved_near(vm, flow.t_s) + moved_near(vm, since.t_s)
        assert abs(kept_bytes - grown) < 16 * MIB + moved_bytes
        assert (flow.returned_bytes > 16 * MIB) == (result.cell.strategy == "reporting")
        assert flow.regret_bytes <= flow.returned_bytes
    kept, returned = (result.vms[0].samples for result in sorted(results, key=by_work))
    assert kept[-1].resident_bytes > 0.95 * max(s.resident_bytes for s in kept)
    # Half a minute later it would be far more; this least value needs no clock.
    assert returned[-1].resident_bytes < max(s.resident_bytes for s in returned) - 16 * MIB
