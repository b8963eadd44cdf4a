"""Cache of ended cgroups is measured once after an end, and wanted for a while."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant

from giveback_agent.policy.cache_goal import EndedRegret
from giveback_agent.policy.observation import GENERATIONS, LISTS
from giveback_agent.release import steps
from giveback_agent.service.end_watch import SETTLE_S
from giveback_agent.service.ended_cache import PERIOD_S, WANTED_S, EndedCache

MIB = 1 << 20


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EndedCache, list[float]]:
    """A guest in which ended cgroups left 300 MiB, and the measurements made."""
    made: list[float] = []

    def measure(root: str, cold_method: str) -> int:
        made.append(1.0)
        return 300 * MIB

    monkeypatch.setattr(steps, "ended_bytes", measure)
    return EndedCache(str(plant(tmp_path, GUEST))), made


def test_what_is_the_roots_own_is_measured_before_anything_ends(
    measured: tuple[EndedCache, list[float]],
) -> None:
    cache, made = measured
    cache.begin(GENERATIONS)
    assert not made
    cache.begin(LISTS)
    assert len(made) == 1
    assert cache.left_bytes == 0


def test_an_end_is_measured_a_moment_later_and_not_too_often(
    measured: tuple[EndedCache, list[float]],
) -> None:
    ended, made = measured
    assert not ended.measure(100.0, may_measure=True, cold_method=LISTS)
    ended.watch.rose = True
    assert not ended.measure(101.0, may_measure=True, cold_method=LISTS), (
        "the kernel takes it down meanwhile"
    )
    assert not ended.measure(101.0 + SETTLE_S, may_measure=False, cold_method=LISTS)
    assert ended.measure(101.0 + SETTLE_S, may_measure=True, cold_method=LISTS)
    assert (len(made), ended.left_bytes, ended.watch.rose) == (1, 300 * MIB, False)
    ended.watch.rose = True
    assert not ended.measure(104.0, may_measure=True, cold_method=LISTS)
    assert not ended.measure(101.0 + SETTLE_S + PERIOD_S - 0.1, may_measure=True, cold_method=LISTS)
    assert ended.measure(101.0 + SETTLE_S + PERIOD_S, may_measure=True, cold_method=LISTS)
    assert len(made) == 2


def test_what_was_left_is_wanted_for_a_while_and_after_a_regrets_wait(
    measured: tuple[EndedCache, list[float]],
) -> None:
    ended, _ = measured
    calm = EndedRegret()
    assert not ended.is_wanted(100.0, calm)
    ended.watch.rose = True
    ended.measure(100.0, may_measure=True, cold_method=LISTS)
    ended.measure(100.0 + SETTLE_S, may_measure=True, cold_method=LISTS)
    assert ended.is_wanted(102.0, calm)
    assert not ended.is_wanted(102.0, EndedRegret(until_s=400.0))
    assert ended.is_wanted(401.0, EndedRegret(until_s=400.0))
    assert not ended.is_wanted(100.0 + SETTLE_S + PERIOD_S + WANTED_S, calm)


def test_what_a_step_left_is_measured_again_each_time_later_and_not_for_ever(
    measured: tuple[EndedCache, list[float]],
) -> None:
    """A step that could not protect live cgroups takes nothing, and no other cgroup may end for days."""
    ended, made = measured
    began_s, waits = 1000.0, []
    for _ in range(6):
        ended.step_begins(began_s)
        assert ended.left_bytes == 0
        for wait_s in range(400):
            if ended.measure(began_s + wait_s, may_measure=True, cold_method=LISTS):
                waits.append(wait_s)
                break
        began_s += 1000.0
    assert waits == [21, 41, 81, 161]
    assert len(made) == 4
    ended.watch.rose = True
    assert not ended.measure(9000.0, may_measure=True, cold_method=LISTS)
    assert ended.measure(9000.0 + SETTLE_S, may_measure=True, cold_method=LISTS)
    ended.step_begins(9002.0)
    assert not ended.measure(9021.0, may_measure=True, cold_method=LISTS)
    assert not ended.measure(9022.0, may_measure=True, cold_method=LISTS)
    assert ended.measure(9023.0, may_measure=True, cold_method=LISTS), "another end: soon again"
