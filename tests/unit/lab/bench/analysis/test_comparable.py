"""Which cells can be compared, and which do not count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_results import failed_result, make_result, make_results

from giveback_lab.bench.analysis.comparable import groups, is_own
from giveback_lab.bench.model import CellResult


def cut(result: CellResult, after_s: float) -> CellResult:
    """Return the result, watched for only `after_s` after the workload."""
    vm = result.vms[0]
    end_s = vm.marks[0].end_s + after_s
    return replace(
        result, vms=(replace(vm, samples=tuple(s for s in vm.samples if s.t_s <= end_s)),)
    )


def test_settings_are_never_mixed() -> None:
    results = make_results(("files", "hogs"), ("none", "giveback"), rounds=1)
    other = replace(results[0], cell=replace(results[0].cell, kernel="6.1"))
    found = groups([*results, other])
    assert [(g.setting.work, g.setting.kernel) for g in found] == [
        *(("files", "6.12"), ("hogs", "6.12")),
        ("files", "6.1"),
    ]


def test_the_span_after_the_work_is_that_of_the_one_watched_least() -> None:
    results = make_results(rounds=2)
    (group,) = groups([*results[:-1], cut(results[-1], 80)])
    assert group.after_s[0] == pytest.approx(80, abs=1.1)
    assert not group.failed


def test_a_cell_watched_for_much_less_is_left_out_with_its_reason() -> None:
    results = make_results(rounds=2)
    (group,) = groups([*results[:-1], cut(results[-1], 20)])
    assert group.after_s[0] > 95
    assert "watched for" in group.failed[0].reasons[0]


def test_work_that_was_not_done_is_left_out() -> None:
    results = make_results(rounds=1)
    vm = results[-1].vms[0]
    short = replace(results[-1], vms=(replace(vm, work_s=vm.work_s / 3),))
    (group,) = groups([*results[:-1], short])
    assert "not all done" in group.failed[0].reasons[0]


def test_failed_cells_keep_their_reasons() -> None:
    whole = make_result()
    no_end = replace(whole, vms=(replace(whole.vms[0], marks=()),), problems=("the VM panicked",))
    unread = replace(
        whole, cell=replace(whole.cell, round=2), vms=(replace(whole.vms[0], samples=()),)
    )
    (group,) = groups([failed_result(), no_end, unread])
    assert not group.cells
    reasons = [reason for failed in group.failed for reason in failed.reasons]
    assert reasons == [
        *("damon-reclaim: the guest has no DAMON_RECLAIM", "nothing was measured"),
        *("the VM panicked", "vm0: its work never ended"),
        "vm0: its memory was never read",
    ]


def test_the_later_of_two_results_of_one_cell_counts() -> None:
    first, again = make_result(seed=1), make_result(seed=2)
    (group,) = groups([first, again])
    assert [cell.result for cell in group.cells] == [again]


def test_ratios_are_to_none_of_the_same_round() -> None:
    (group,) = groups(make_results(rounds=3))
    for cell in group.of("giveback"):
        (none,) = [c for c in group.of("none") if c.round == cell.round]
        assert cell.figures.slow_ratio == (cell.figures.work_s or 0) / (none.figures.work_s or 1)
    assert set(group.values("none", "slow_ratio").values()) == {1.0}


def test_without_none_there_are_no_ratios() -> None:
    (group,) = groups(make_results(strategies=("reporting", "giveback"), rounds=2))
    assert group.values("giveback", "slow_ratio") == {}
    assert group.rounds == 2


def test_parts_of_giveback_are_its_own() -> None:
    assert is_own("giveback")
    assert is_own("giveback-no-deep-report")
    assert not is_own("givebackward")
