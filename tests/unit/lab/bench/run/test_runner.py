"""Running many cells: failures are retried, impossible cells are not, and a stop cleans up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from bench_jobs import job_of, result_of
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback_lab.bench.model import Cell, CellResult
from giveback_lab.bench.run.runner import CellJob, Room, another_fits, run_all, run_in_time
from giveback_lab.bench.run.store import Store
from giveback_lab.bench.strategy import CannotRun

Behaviour = Callable[[str], None]


class Lab:
    """A stand-in for real VMs; the test decides what a cell does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behave: Behaviour = lambda _: None
        self.tried: list[str] = []
        self.cleaned: list[str] = []
        self.forever = False
        lab = self

        class Run:
            def __init__(self, cell: Cell, *_: object) -> None:
                self.cell = cell
                self.strategy = cell.strategy

            async def run(self, _versions: Mapping[str, str]) -> CellResult:
                lab.tried.append(self.strategy)
                try:
                    await asyncio.sleep(3600 if lab.forever else 0)
                    lab.behave(self.strategy)
                    return replace(result_of(job_of(self.strategy)), cell=self.cell)
                finally:
                    for _ in range(3):
                        await asyncio.sleep(0)
                    lab.cleaned.append(self.strategy)

        monkeypatch.setattr("giveback_lab.bench.run.runner.CellRun", Run)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.make()
    return store


JOBS: list[CellJob] = [job_of(name) for name in ("none", "reporting", "giveback")]


def test_all_cells_are_stored_and_said(lab: Lab, store: Store) -> None:
    said: list[str] = []
    results = asyncio.run(run_all(JOBS, store, 2, said.append))
    assert len(results) == len(store.read_all()[0]) == 3
    (sitting,) = {result.sitting for result in store.read_all()[0]}
    assert sitting
    assert asyncio.run(run_all(JOBS[:1], store, 1, said.append))[0].sitting > sitting
    assert [line.split("]")[0] for line in said[:3]] == ["[1/3", "[2/3", "[3/3"]
    assert "left" in said[0]
    assert "left" not in said[2]


def test_a_failure_is_tried_once_more_and_then_kept_while_others_go_on(
    lab: Lab, store: Store
) -> None:
    def fail(strategy: str) -> None:
        if strategy == "reporting" or (strategy == "none" and lab.tried.count("none") == 1):
            raise VmError("vm: the guest panicked")

    lab.behave = fail
    said: list[str] = []
    results = asyncio.run(run_all(JOBS, store, 1, said.append))
    assert lab.tried == ["none", "none", "reporting", "reporting", "giveback"]
    assert [result.cell.strategy for result in results if not result.vms] == ["reporting"]
    assert store.read(JOBS[0].cell) is not None
    assert store.read(JOBS[1].cell) is None
    (failure,) = [result for result in store.read_all()[0] if not result.vms]
    assert failure.problems == ("vm: the guest panicked",)
    assert sum("tried once more" in line for line in said) == 2


@pytest.mark.parametrize(
    ("round_s", "rounds"), [(100.0, 3), (270.0, 3), (290.0, 2), (370.0, 2), (500.0, 1), (2000.0, 1)]
)
def test_with_little_time_there_are_as_many_whole_rounds_as_end_in_it(
    lab: Lab, store: Store, round_s: float, rounds: int
) -> None:
    # 20 s passed before the first cell.
    clock_s = 1020.0

    def take_time(_: str) -> None:
        nonlocal clock_s
        clock_s += round_s / len(JOBS)

    lab.behave = take_time
    jobs = [
        replace(job, cell=replace(job.cell, round=number)) for number in (1, 2, 3) for job in JOBS
    ]
    said: list[str] = []
    results = asyncio.run(
        run_in_time(
            jobs, store, 1, said.append, began_s=1000.0, within_s=900.0, read_s=lambda: clock_s
        )
    )
    assert [result.cell for result in results] == [job.cell for job in jobs[: 3 * rounds]]
    assert len({result.sitting for result in store.read_all()[0]}) == 1
    assert rounds == 1 or clock_s <= 1900.0
    left_out = [line for line in said if "left out" in line]
    assert len(left_out) == (rounds < 3)
    assert all(
        line.startswith(f"round {rounds + 1} would not end within 15 min") for line in left_out
    )
    if left_out:
        # The command, started again, begins with the remaining cells at once.
        asyncio.run(
            run_in_time(jobs[3 * rounds :], store, 1, said.append, began_s=0.0, within_s=0.0)
        )
        assert store.read(jobs[3 * rounds].cell) is not None


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_round_that_fits_ends_in_time_even_if_it_is_a_little_longer(
    elapsed_s: float, last_round_s: float, within_s: float
) -> None:
    if another_fits(elapsed_s, last_round_s, within_s):
        assert elapsed_s + last_round_s * 1.05 <= within_s
    else:
        assert elapsed_s + last_round_s * 1.15 >= within_s


def test_what_cannot_run_is_not_tried_again(lab: Lab, store: Store) -> None:
    def refuse(strategy: str) -> None:
        raise CannotRun(f"{strategy}: no such file")

    lab.behave = refuse
    results = asyncio.run(run_all(JOBS[:1], store, 1, lambda _: None))
    assert lab.tried == ["none"]
    assert results[0].problems == ("cannot run here: none: no such file",)


def test_a_stop_lets_every_cell_clean_up(lab: Lab, store: Store) -> None:
    lab.forever = True

    async def main() -> None:
        task = asyncio.ensure_future(run_all(JOBS, store, 3, lambda _: None))
        while len(lab.tried) < 3:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert sorted(lab.cleaned) == sorted(lab.tried)
    assert store.read_all() == ([], [])


def test_cells_wait_until_there_is_room_and_a_large_one_is_never_refused() -> None:
    async def main() -> list[str]:
        room, said = Room(10), []

        async def cell(name: str, size_bytes: int, ends: asyncio.Event) -> None:
            async with room.of(size_bytes):
                said.append(name)
                await ends.wait()

        first, second, third = (asyncio.Event() for _ in range(3))
        tasks = [asyncio.ensure_future(cell("six", 6, first))]
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(cell("twenty", 20, second)))
        tasks.append(asyncio.ensure_future(cell("four", 4, third)))
        for _ in range(9):
            await asyncio.sleep(0)
        assert said == ["six", "four"]
        first.set()
        for _ in range(9):
            await asyncio.sleep(0)
        assert said == ["six", "four"]
        third.set()
        second.set()
        await asyncio.gather(*tasks)
        return said

    assert asyncio.run(main()) == ["six", "four", "twenty"]


def test_who_is_stopped_while_waiting_for_room_leaves_it_to_others() -> None:
    async def main() -> None:
        room = Room(10)
        async with room.of(8):
            waits = asyncio.ensure_future(room.of(8).__aenter__())
            await asyncio.sleep(0)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
        async with room.of(10):
            pass

    asyncio.run(asyncio.wait_for(main(), 5))
