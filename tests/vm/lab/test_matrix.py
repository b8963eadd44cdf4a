"""The matrix and the distribution guest's works on real VMs. GIVEBACK_MATRIX=1 runs them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from giveback_lab.bench.model import Cell
from giveback_lab.bench.run.cell import CellSetting
from giveback_lab.bench.run.runner import CellJob, run_all
from giveback_lab.bench.run.store import Store
from giveback_lab.bench.strategies import STRATEGIES
from giveback_lab.bench.works import WORKS, shortened
from giveback_lab.matrix.measure import measure, prepared
from giveback_lab.matrix.rows import MatrixRow
from giveback_lab.vms.lab import guest_kind, prepare_lab

if TYPE_CHECKING:
    from pathlib import Path

    from giveback_lab.vms.accel import Accel

MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    os.environ.get("GIVEBACK_MATRIX") != "1", reason="of the matrix: set GIVEBACK_MATRIX=1"
)


@pytest.mark.parametrize(
    ("guest", "ends"), [("small", ["cgroup"]), ("distribution", ["container", "service"])]
)
def test_a_row_has_figures(guest: str, ends: list[str]) -> None:
    async def row() -> None:
        lab, accel = await prepared(MatrixRow("6.12", "amd64", guest), print)
        found = await measure(MatrixRow("6.12", "amd64", guest), lab, accel, 1024 * MIB)
        assert found.release.startswith("6.12.")
        assert [one.name for one in found.ends] == ends
        assert all(one.cold_bytes > 64 * MIB for one in found.ends)
        assert 0 < found.resident_after_bytes <= found.resident_before_bytes
        assert found.hot_bytes > 32 * MIB

    asyncio.run(row())


@pytest.mark.parametrize("name", ["containers", "service-50"])
def test_a_work_of_the_distribution_guest_is_measured(
    name: str, accel: Accel, tmp_path: Path
) -> None:
    lab = prepare_lab("6.12", None, print, guest_kind("distribution", None))
    setting = CellSetting(lab, accel.name, 2, 1, tmp_path / "logs")
    cell = Cell("6.12", 1024 * MIB, name, "giveback", 1)
    job = CellJob(cell, shortened(WORKS[name], 20.0), STRATEGIES["giveback"], setting)
    store = Store(tmp_path)
    store.make()
    (result,) = asyncio.run(run_all([job], store, 1, print))
    assert result.problems == ()
    (vm,) = result.vms
    assert vm.reread_s is not None
    assert (vm.again_s is not None) == (name == "containers")
    assert (vm.service is not None) == (name == "service-50")
    assert vm.after.agent_memory_bytes is not None
    assert vm.flows[-1].faulted_bytes > 0
