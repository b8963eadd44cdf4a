"""Ten thousand decisions on a fake guest: neither memory nor open files grow."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant

from giveback_agent.policy.observation import (
    StepOutcome,
)
from giveback_agent.runtime import run_dir
from giveback_agent.service import loop
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace

CYCLES = 10_000
WARM_CYCLES = 1_000
# The allocator's own arenas are of this size.
GROWTH_BYTES = 1 << 20
TICKS_PER_CYCLE = 100
STAT = "cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\n"


class Clock:
    """A clock that the test advances by a second for each decision."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("mode", ["adaptive", "gradual"])
def test_ten_thousand_decisions_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The workload comes and goes, passes begin and end; a dry run, so that no step needs a process."""
    plant(tmp_path, GUEST)
    run_dir.make_folder(str(tmp_path))
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    said = 0

    def count(line: str) -> None:
        nonlocal said
        said += 1

    agent = loop.Service(str(tmp_path), AgentSettings(mode=mode, dry_run=True), count)
    agent._can = replace(
        agent._can, reporting=True, order_settable=True, reclaim=True, drop_caches=True,
        compaction=True, cold_method="generations",
    )  # fmt: skip
    stat = tmp_path / "proc/stat"
    busy = idle = before_bytes = before_files = 0
    for cycle in range(WARM_CYCLES + CYCLES):
        if cycle == WARM_CYCLES:
            gc.collect()
            before_bytes, before_files = resident_bytes(), open_files()
        if cycle % 400 < 40:
            busy += TICKS_PER_CYCLE
        else:
            idle += TICKS_PER_CYCLE
        stat.write_text(STAT.format(busy=busy, idle=idle))
        # The guest sleeps for an hour now and then, so that kept cache is judged again.
        clock.now_s += 3601.0 if cycle % 400 == 0 else 1.0
        agent._tick()
    gc.collect()
    print(f"{mode}: {agent._passes.count} passes, {said} lines, "
          f"{(resident_bytes() - before_bytes) >> 10} KiB more")  # fmt: skip
    assert agent._passes.count > 20
    assert len(agent._passes.ended) <= 10
    assert open_files() == before_files
    assert resident_bytes() - before_bytes < GROWTH_BYTES
    agent._close()


def test_steps_between_passes_are_counted_and_not_kept() -> None:
    from agent_guests import snapshot

    from giveback_agent.policy import actions as act
    from giveback_agent.service.pass_log import PassLog

    log = PassLog()
    for _ in range(1000):
        log.note(
            StepOutcome(act.ReclaimCold.kind, ok=True),
            snapshot(0.0, free=800),
            snapshot(1.0, free=801),
        )
    assert (log.steps, log.small_steps, log.small_bytes) == ([], 1000, 1000 << 20)
