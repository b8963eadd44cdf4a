"""A cell's course: for which cells the others wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from bench_jobs import job_of

from giveback_lab.bench.run.cell import ACT_S, CellRun
from giveback_lab.bench.run.host_load import HostLoad
from giveback_lab.bench.run.measure import Stopwatch
from giveback_lab.bench.strategies import STRATEGIES

if TYPE_CHECKING:
    from giveback_lab.bench.run.runner import CellJob


class Watch(Stopwatch):
    """Return from waits at once, and record until when the turn was held."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._s = 0.0
        self._lock = lock
        self.held_until_s = 0.0
        super().__init__(lambda: self._s)

    async def wait_until(self, t_s: float) -> None:
        self._s = max(self._s, t_s)
        if self._lock.locked():
            self.held_until_s = self._s


def idled(job: CellJob, idle_s: float) -> tuple[float, float]:
    """Return for how long the turn was held in an idle time, and the length of that time."""

    async def main() -> tuple[float, float]:
        lock = asyncio.Lock()
        run = CellRun(job.cell, job.work, job.strategy, job.setting, lock, HostLoad())
        watch = run._watch = Watch(lock)
        await run._turn.take(())
        await run._idle(ACT_S, idle_s)
        assert not lock.locked()
        return watch.held_until_s, watch.now_s()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("quiet_s", "held_s"), [(0.0, ACT_S), (ACT_S - 1, ACT_S), (ACT_S, 0.0), (1e9, 0.0)]
)
def test_nobody_keeps_still_for_who_rests(quiet_s: float, held_s: float) -> None:
    job = job_of("none")
    job = replace(job, strategy=replace(job.strategy, quiet_s=quiet_s))
    assert idled(job, 60.0) == (held_s, 60.0)


def test_the_turn_is_never_held_beyond_the_idle_time() -> None:
    assert idled(job_of("giveback"), 5.0) == (5.0, 5.0)


def test_who_acts_when_it_sees_fit_is_kept_still_for() -> None:
    resting = {name for name, one in STRATEGIES.items() if one.quiet_s}
    assert resting == {"none", "reporting", "wsl-gen2-dropcache", "wsl-gen2-gradual"}
