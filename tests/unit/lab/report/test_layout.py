"""Ticks, grouped actions, phases, and labels that do not overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from report_runs import PHASES, cut, make_run, make_vm, patient, runs

from giveback_kernel.units import MIB
from giveback_lab.report.layout import (
    actions,
    byte_ticks,
    pack,
    phases,
    span,
    spread,
    time_ticks,
    work_end_s,
)
from giveback_lab.report.run import DemoRun, RunMark, WorkPhase

FINITE = st.floats(-1e6, 1e6)


@given(runs(), st.integers(1, 12))
@patient
def test_span_holds_every_sample(run: DemoRun, most: int) -> None:
    whole = span(run, most)
    for vm in run.vms:
        for sample in vm.samples:
            assert whole.start_s <= sample.t_s <= whole.end_s
            assert 0 <= whole.y(sample.resident_bytes) <= 1
    ticks = byte_ticks(whole)
    assert ticks[0] == 0
    assert ticks[-1] == whole.top_bytes
    assert len(ticks) <= most + 1


@given(FINITE, st.floats(0.1, 1e6), st.integers(1, 20))
@patient
def test_time_ticks_are_within_and_not_too_many(start_s: float, long_s: float, most: int) -> None:
    ticks = time_ticks(start_s, start_s + long_s, most)
    assert len(ticks) <= most + 1
    assert all(start_s <= t_s <= start_s + long_s for t_s in ticks)
    assert len({b - a for a, b in pairwise(ticks)}) <= 1


@given(st.lists(FINITE, max_size=8), st.floats(0, 50), FINITE, st.floats(0, 500))
@patient
def test_spread_keeps_apart_and_within(
    wanted: list[float], gap: float, low: float, room: float
) -> None:
    placed = spread(wanted, gap, low, low + room)
    assert len(placed) == len(wanted)
    assert all(low - 1e-6 <= place <= low + room + 1e-6 for place in placed)
    least = min(gap, room / max(1, len(wanted) - 1))
    assert all(b - a >= least - 1e-6 for a, b in pairwise(sorted(placed)))


def test_spread_moves_nothing_without_need() -> None:
    assert spread([10, 50, 30], 16, 0, 100) == [10, 50, 30]


@given(
    st.lists(st.tuples(st.floats(-50, 550), st.floats(1, 200)), max_size=12),
    st.integers(1, 3),
    st.floats(0, 10),
)
@patient
def test_packed_labels_do_not_overlap(
    items: list[tuple[float, float]], lanes: int, gap: float
) -> None:
    placed = pack(items, 500, lanes, gap)
    taken: list[tuple[int, float, float]] = []
    for (_, width), spot in zip(items, placed, strict=True):
        if spot is None:
            continue
        lane, left = spot
        assert 0 <= lane < lanes
        assert left >= 0
        assert left + width <= 500 + 1e-6
        assert all(
            lane != other or left + width <= a + 1e-6 or left >= b - 1e-6 for other, a, b in taken
        )
        taken.append((lane, left, left + width))


def test_labels_are_dropped_only_for_want_of_room() -> None:
    assert pack([(50, 40), (50, 40), (50, 40)], 100, 2, 1) == [(0, 30.0), (1, 30.0), None]
    assert pack([(50, 101)], 100, 2, 1) == [None]


def test_actions_close_together_are_one() -> None:
    marks = [RunMark(t, "giveback", "reclaim", "64 MiB") for t in (1, 2, 3, 9)]
    marks.append(RunMark(2.5, "giveback", "compact", ""))
    found = actions(marks, gap_s=2)
    assert [(a.kind, a.start_s, a.end_s, a.count) for a in found] == [
        ("reclaim", 1, 3, 3),
        ("compact", 2.5, 2.5, 1),
        ("reclaim", 9, 9, 1),
    ]
    assert found[0].label == "64 MiB"


def test_actions_that_said_different_things_say_none() -> None:
    marks = [RunMark(t, "giveback", "reclaim", f"{t} MiB") for t in (1, 2)]
    assert actions(marks, gap_s=2)[0].label == ""


def test_phases_are_those_of_the_vm_that_got_furthest() -> None:
    run = make_run()
    behind = replace(run.vms[0], work_phases=PHASES[:2])
    assert phases(replace(run, vms=(behind, run.vms[1])), 240) == list(PHASES)


def test_the_running_phase_lasts_until_now() -> None:
    assert phases(cut(make_run(), 70), 70)[-1] == WorkPhase("run again", 66.5, 70)


def test_phases_are_told_by_marks_where_nothing_else_is() -> None:
    vm = replace(make_vm("giveback"), work_phases=())
    found = phases(replace(make_run(), vms=(vm,)), 240)
    assert [phase.name for phase in found] == [phase.name for phase in PHASES]
    assert found[0] == WorkPhase("checkout", 0, 14)


def test_the_work_ends_with_the_last_vm() -> None:
    assert work_end_s(make_run()) == make_vm("giveback").work_end_s
    assert work_end_s(cut(make_run(), 118.5)) is None
    assert work_end_s(replace(make_run(), vms=())) is None


def test_small_runs_have_an_axis_too() -> None:
    whole = span(cut(make_run(), -99), 8)
    assert whole.top_bytes >= 16 * MIB
    assert whole.end_s > whole.start_s
