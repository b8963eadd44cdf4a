"""Running many cells: failures once more, what cannot run not, a stop in the middle cleans up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from test_bench_measure import job_of, result_of

from giveback.bench.model import CellResult
from giveback.bench.runner import Job, Room, run_all
from giveback.bench.store import Store
from giveback.bench.strategy import CannotRun
from giveback.errors import VmError

Behaviour = Callable[[str], None]


class Lab:
    """Stands in for real VMs: what a cell does is the test's to say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behave: Behaviour = lambda _: None
        self.tried: list[str] = []
        self.cleaned: list[str] = []
        self.forever = False
        lab = self

        class Run:
            def __init__(self, cell: object, *_: object) -> None:
                self.strategy = str(getattr(cell, "strategy", ""))

            async def run(self, _versions: Mapping[str, str]) -> CellResult:
                lab.tried.append(self.strategy)
                try:
                    await asyncio.sleep(3600 if lab.forever else 0)
                    lab.behave(self.strategy)
                    return result_of(job_of(self.strategy))
                finally:
                    for _ in range(3):
                        await asyncio.sleep(0)
                    lab.cleaned.append(self.strategy)

        monkeypatch.setattr("giveback.bench.runner.CellRun", Run)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.make()
    return store


JOBS: list[Job] = [job_of(name) for name in ("none", "reporting", "giveback")]


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
