"""Measuring a cell: the stopwatch, turns, guest samples, and which stored cells still count."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_jobs import job_of, result_of
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback_lab.bench.run.cell import Turn
from giveback_lab.bench.run.measure import Stopwatch, needed_bytes, parse_guest_sample, used
from giveback_lab.bench.run.runner import described, duration, to_do
from giveback_lab.bench.run.store import Store
from giveback_lab.bench.works import WORKS, named, shortened

MIB = 1 << 20
ZEROS = (
    *("Buffers", "Cached", "Active(anon)", "Inactive(anon)", "SwapTotal", "SwapFree", "Dirty"),
    *("Writeback", "AnonPages", "Mapped", "Shmem", "Slab", "SUnreclaim"),
)
MEMINFO = """MemTotal:  {total} kB
MemFree:  {free} kB
MemAvailable:  {free} kB
Active(file):  2048 kB
Inactive(file):  2048 kB
SReclaimable:  1024 kB
""" + "".join(f"{name}: 0 kB\n" for name in ZEROS)


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@given(st.lists(st.tuples(st.sampled_from(["run", "pause"]), st.floats(0, 100)), max_size=12))
def test_a_stopwatch_leaves_pauses_out(spans: list[tuple[str, float]]) -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    for kind, seconds in spans:
        if kind == "pause":
            watch.pause()
            before = watch.now_s()
        clock.s += seconds
        if kind == "pause":
            assert watch.paused
            assert watch.now_s() == before
            watch.resume()
    ran = sum(seconds for kind, seconds in spans if kind == "run")
    assert watch.now_s() == pytest.approx(ran, abs=1e-6)


def test_a_zero_may_be_set_later() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.s += 12
    assert watch.set_zero() == 12
    clock.s += 3
    assert watch.now_s() == 3


def test_turns_are_taken_one_by_one_and_waiting_stops_the_watch() -> None:
    async def main() -> list[str]:
        lock = asyncio.Lock()
        clock = Clock()
        watches = [Stopwatch(clock), Stopwatch(clock)]
        first, second = (Turn(lock, watch) for watch in watches)
        said = []
        await first.take(())
        await first.take(())
        waiting = asyncio.ensure_future(second.take(()))
        await asyncio.sleep(0)
        assert watches[1].paused
        said.append("waits")
        first.give()
        first.give()
        await waiting
        assert watches[1].now_s() == 0.0
        assert lock.locked()
        second.give()
        assert not lock.locked()
        return said

    assert asyncio.run(main()) == ["waits"]


def test_a_turn_that_is_given_up_while_waiting_is_free() -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        first, second = (Turn(lock, Stopwatch()) for _ in range(2))
        await first.take(())
        waiting = asyncio.ensure_future(second.take(()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second.give()
        assert lock.locked()
        first.give()
        assert not lock.locked()

    asyncio.run(main())


def event(total: int, free: int) -> dict[str, Any]:
    return {"files": {"/proc/meminfo": MEMINFO.format(total=total, free=free)}}


def test_what_a_balloon_holds_is_not_used() -> None:
    before = parse_guest_sample(event(1000 << 10, 500 << 10), 1024 * MIB)
    ballooned = parse_guest_sample(event(700 << 10, 200 << 10), 1024 * MIB)
    assert before is not None
    assert ballooned is not None
    most_bytes = 1000 * MIB
    assert used(before, 1024 * MIB, most_bytes) == used(ballooned, 1024 * MIB, most_bytes)


def test_a_guests_sample_must_make_sense() -> None:
    memory = parse_guest_sample(event(900 << 10, 500 << 10), 1024 * MIB)
    assert memory is not None
    assert memory.mem_free_bytes == 500 * MIB
    # 1024 - 500 free - 4 of cache - 1 of slab, and 2 of cache that is hot
    assert used(memory, 1024 * MIB, 900 * MIB) == 524 * MIB
    assert needed_bytes(memory, 524 * MIB, 2 * MIB) == 521 * MIB
    assert parse_guest_sample(event(900 << 10, 500 << 10), 512 * MIB) is None
    assert parse_guest_sample(event(100, 200), 512 * MIB) is None
    nonsenses: list[dict[str, Any]] = [{}, {"files": None}, {"files": {"/proc/meminfo": 7}}]
    for nonsense in nonsenses:
        assert parse_guest_sample(nonsense, 512 * MIB) is None


def test_what_is_there_is_not_measured_again_and_what_changed_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    jobs = [job_of("none"), job_of("giveback")]
    said: list[str] = []
    assert to_do(jobs, store, said.append) == jobs
    for job in jobs:
        store.write(result_of(job))
    assert to_do(jobs, store, said.append) == []
    assert said == ["2 of 2 cells are there already"]
    said.clear()
    (left,) = to_do([job_of("none", "6.12.2"), jobs[1]], store, said.append)
    assert left.cell.strategy == "none"
    assert "kernel was 6.12.1 and is 6.12.2: measured again" in said[0]


def test_none_is_measured_once_more_beside_what_is_left(tmp_path: Path) -> None:
    """Otherwise the rest of a round would have no cell of `none` in its own sitting."""
    store = Store(tmp_path)
    store.make()
    jobs = [job_of("none"), job_of("reporting"), job_of("giveback")]
    for job in jobs[:2]:
        store.write(result_of(job))
    said: list[str] = []
    assert to_do(jobs, store, said.append) == [jobs[0], jobs[2]]
    assert said == [
        "1 of 3 cells are there already",
        "cells of none that are measured once more, beside the others: 1",
    ]
    assert to_do(jobs[1:], store, said.append) == [jobs[2]]


def test_a_stored_file_that_is_broken_is_measured_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make()
    job = job_of("none")
    store.write(result_of(job)).write_bytes(b"broken")
    said: list[str] = []
    assert to_do([job], store, said.append) == [job]
    assert "measured again" in said[0]


def test_versions_tell_works_and_strategies_apart() -> None:
    job = job_of("none")
    shorter = replace(job, work=shortened(job.work, 5.0))
    assert job.versions()["work"] != shorter.versions()["work"]
    assert job.versions()["strategy"] != job_of("reporting").versions()["strategy"]
    assert job.versions() == job_of("none").versions()


def test_a_cell_in_a_line() -> None:
    result = result_of(job_of("none"))
    line = described(result)
    assert "files, none, 6.12, 1024 MiB, round 1: work 9.0 s, peak 300 MiB" in line
    assert "others used 30% of the host" in described(replace(result, host_busy_share=0.3))
    assert described(replace(result, vms=(), problems=("it panicked",))).endswith(
        "failed: it panicked"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "about 10 s"), (44, "about 40 s"), (600, "about 10 min"), (12_000, "about 3 h 20 min")],
)
def test_a_time_for_a_person(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_works_by_name() -> None:
    assert [work.name for work in named("hogs, files,hogs")] == ["hogs", "files"]
    assert len(named("all")) == len(WORKS)
    with pytest.raises(InputError, match="no workload 'x'"):
        named("x")
    three = WORKS["three-aligned"]
    assert three.ram_bytes(2048 * MIB) == 1024 * MIB
    assert WORKS["files"].ram_bytes(2048 * MIB) == 2048 * MIB
