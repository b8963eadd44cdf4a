"""Whether the targets are met, and against which strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from bench_results import FEW, MIB, SHAPES, make_results, patient
from hypothesis import given
from hypothesis import strategies as st

from giveback_lab.bench.analysis.comparable import groups
from giveback_lab.bench.analysis.targets import (
    TARGETS,
    TargetFinding,
    Verdict,
    best_by,
    findings,
    harm,
    other_strategies,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback_lab.bench.model import CellResult, VmCourse


def judged(results: Sequence[CellResult], target: str, *, gentle: bool = False) -> TargetFinding:
    found = [
        f for f in findings(groups(results)) if f.target.name == target and f.counts is not gentle
    ]
    assert len(found) == 1
    return found[0]


def changed(
    results: Sequence[CellResult], strategy: str, change: Callable[[VmCourse], VmCourse]
) -> list[CellResult]:
    return [
        replace(r, vms=tuple(map(change, r.vms))) if r.cell.strategy == strategy else r
        for r in results
    ]


def at_residue(mib: float) -> Callable[[VmCourse], VmCourse]:
    def change(vm: VmCourse) -> VmCourse:
        return replace(
            vm,
            samples=tuple(
                replace(s, non_free_bytes=s.resident_bytes - int(mib * MIB)) for s in vm.samples
            ),
        )

    return change


def longer(factor: float) -> Callable[[VmCourse], VmCourse]:
    return lambda vm: replace(vm, work_s=factor * vm.work_s)


def rereads(factor: float) -> Callable[[VmCourse], VmCourse]:
    return lambda vm: replace(vm, reread_s=None if vm.reread_s is None else factor * vm.reread_s)


def test_a_shape_far_ahead_meets_its_footprint_against_the_best() -> None:
    finding = judged(make_results(("build",), SHAPES, 3), "footprint")
    assert finding.verdict is Verdict.MET
    assert finding.against == "wsl-gen2-dropcache"
    assert finding.comparison is not None
    assert finding.comparison.count == 3


def test_a_best_that_hurts_counts_first_and_the_gentle_one_is_told_too() -> None:
    results = make_results(("files",), SHAPES, 3)
    first = judged(results, "footprint")
    assert first.against == "wsl-gen2-dropcache"
    assert "re-reads 3.5 times" in first.remark
    second = judged(results, "footprint", gentle=True)
    assert second.against == "senpai"
    assert second.comparison is not None
    assert first.comparison is not None
    assert second.comparison.ratio < first.comparison.ratio


def test_own_parts_are_no_rivals() -> None:
    (group,) = groups(make_results(("files",), SHAPES, 1))
    assert not [name for name in other_strategies(group) if name.startswith("giveback")]
    assert len(other_strategies(group)) == len([n for n in SHAPES if not n.startswith("giveback")])


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (15, 20, Verdict.MET),
        (19, 0, Verdict.MET),
        (30, 0, Verdict.MISSED),
        (30, 60, Verdict.MISSED),
        (30, 200, Verdict.MET),
        (60, 200, Verdict.MISSED),
    ],
)
def test_residue_below_a_grain_is_none(ours: float, theirs: float, verdict: Verdict) -> None:
    results = make_results(strategies=("none", "giveback"), rounds=2)
    results = changed(changed(results, "none", at_residue(theirs)), "giveback", at_residue(ours))
    finding = judged(results, "residue-idle")
    assert finding.verdict is verdict
    assert (finding.grain_bytes is not None) == (theirs < 80)
    assert finding.comparison is not None
    assert finding.comparison.theirs == pytest.approx(theirs * MIB, abs=1)


def test_a_build_has_three_residues_and_no_reread() -> None:
    names = [f.target.name for f in findings(groups(make_results(("build",), FEW, 1))) if f.counts]
    assert names == [
        *("footprint", "never-more", "residue-idle", "residue-cleaned", "residue-dropped"),
        *("slowed", "cpu"),
    ]


def test_work_slowed_is_missed_and_noise_is_neither() -> None:
    results = make_results(rounds=3)
    assert judged(changed(results, "giveback", longer(1.2)), "slowed").verdict is Verdict.MISSED
    noisy = [
        replace(r, vms=tuple(longer(1 + 0.1 * (r.cell.round % 2))(vm) for vm in r.vms))
        if r.cell.strategy == "giveback"
        else r
        for r in results
    ]
    assert judged(noisy, "slowed").verdict is Verdict.IN_NOISE


def test_reread_is_held_against_none() -> None:
    results = make_results(rounds=3)
    assert judged(results, "reread").verdict is Verdict.MET
    slow = judged(changed(results, "giveback", rereads(1.3)), "reread")
    assert (slow.verdict, slow.against) == (Verdict.MISSED, "none")


def test_cpu_is_held_against_the_cheaper_wsl() -> None:
    finding = judged(make_results(rounds=3), "cpu")
    assert finding.against in ("wsl-gen2-dropcache", "wsl-gen2-gradual")
    without = judged(make_results(strategies=("none", "giveback"), rounds=2), "cpu")
    assert without.verdict is Verdict.UNMEASURED
    assert "wsl-gen2" in without.remark


def test_the_hosts_peak_is_judged_on_staggered_vms_alone() -> None:
    finding = judged(make_results(("three-staggered",), FEW, 2), "host-peak")
    assert (finding.verdict, finding.against) == (Verdict.MET, "reporting")
    aligned = findings(groups(make_results(("three-aligned",), FEW, 1)))
    assert not [f for f in aligned if f.target.name == "host-peak"]


def test_one_round_is_judged_by_its_figure_and_says_so() -> None:
    finding = judged(make_results(("build",), FEW, 1), "footprint")
    assert finding.verdict is Verdict.MET
    assert "one round, no spread known" in finding.remark
    assert "agree by chance" not in finding.remark


def test_what_two_rounds_prove_is_said() -> None:
    finding = judged(make_results(("build",), FEW, 2), "footprint")
    assert "two rounds, which agree by chance as often as not" in finding.remark
    assert "agree by chance" not in judged(make_results(("build",), FEW, 3), "footprint").remark


def test_without_giveback_nothing_is_met() -> None:
    found = findings(groups(make_results(strategies=("none", "reporting"), rounds=2)))
    assert {f.verdict for f in found} == {Verdict.UNMEASURED}
    assert all(f.counts for f in found)
    assert "giveback was not measured" in found[0].remark


def test_without_a_common_round_nothing_is_compared() -> None:
    results = make_results(strategies=("none", "giveback"), rounds=2)
    apart = [r for r in results if (r.cell.strategy == "none") == (r.cell.round == 1)]
    assert judged(apart, "footprint").verdict is Verdict.UNMEASURED
    assert "no round has both" in judged(apart, "footprint").remark


def test_cells_with_problems_count_and_are_said() -> None:
    results = [
        replace(r, problems=("the agent ended",)) if r.cell.strategy == "giveback" else r
        for r in make_results(rounds=2)
    ]
    assert "had problems" in judged(results, "footprint").remark


def test_what_is_read_from_disk_again_is_harm_whenever_it_was_measured() -> None:
    def disk(mib: int) -> Callable[[VmCourse], VmCourse]:
        return lambda vm: replace(vm, reread_s=None, reread_disk_bytes=mib << 20)

    for mib, said in ((15, ()), (64, ("re-reads 64 MiB from disk",))):
        results = [
            replace(r, started_at="") if r.cell.strategy == "reporting" else r
            for r in changed(make_results(rounds=3), "reporting", disk(mib))
        ]
        (group,) = groups(results)
        assert harm(group, "reporting") == said


def test_a_slowdown_inside_the_noise_is_no_harm() -> None:
    def slowed(times: float) -> Callable[[VmCourse], VmCourse]:
        return lambda vm: replace(vm, work_s=vm.work_s * times)

    (group,) = groups(changed(make_results(rounds=3), "reporting", slowed(1.3)))
    assert harm(group, "reporting") == ("slows the work by 30 %",)
    noisy = [
        changed([r], "reporting", slowed((0.9, 1.1, 1.2)[r.cell.round - 1]))[0]
        for r in make_results(rounds=3)
    ]
    (group,) = groups(noisy)
    assert harm(group, "reporting") == ()


def test_kills_are_harm() -> None:
    def kill(vm: VmCourse) -> VmCourse:
        return replace(vm, after=replace(vm.after, oom_kills=3))

    (group,) = groups(changed(make_results(rounds=1), "reporting", kill))
    assert harm(group, "reporting") == ("3 processes killed for want of memory",)
    assert harm(group, "giveback") == ()
    assert harm(group, "never measured") == ()


@patient
@given(
    st.integers(1, 3),
    st.lists(st.sampled_from(sorted(SHAPES)), unique=True, min_size=1, max_size=6),
    st.floats(0.2, 5),
)
def test_any_mix_has_a_verdict_and_more_never_is_better(
    rounds: int, names: list[str], factor: float
) -> None:
    results = make_results(("hogs",), names, rounds)
    before = findings(groups(results))
    assert all(f.counts or f.scope == "gentle" for f in before)
    assert {f.target for f in before} <= set(TARGETS)
    worse = findings(groups(changed(results, "giveback", longer(1 + factor))))
    for old, new in zip(before, worse, strict=False):
        if old.target.name == "slowed" == new.target.name and old.verdict is Verdict.MISSED:
            assert new.verdict is Verdict.MISSED


@pytest.mark.parametrize("target", ["slowed", "reread", "cpu", "footprint", "residue-idle"])
@pytest.mark.parametrize("hours", [0, 1, 3])
def test_times_compare_within_a_sitting_only_and_bytes_always(target: str, hours: int) -> None:
    """The machine that measured `none` was a third slower than giveback's, half a day later."""
    later = f"2026-11-21T{9 + hours:02}:00:00+00:00"
    results = [
        replace(r, started_at=later) if r.cell.strategy == "giveback" else r
        for r in make_results(("files",), SHAPES, 1)
    ]
    finding = judged(results, target)
    if hours < 3 or target in ("footprint", "residue-idle"):
        assert finding.comparison is not None
    else:
        assert finding.verdict is Verdict.UNMEASURED
        assert "times do not compare" in finding.remark


@pytest.mark.parametrize(
    ("sittings", "compare"),
    [(("a", "a"), True), (("a", "b"), False), (("a", ""), True), (("", ""), True)],
)
def test_cells_of_two_runs_did_not_take_turns(sittings: tuple[str, str], compare: bool) -> None:
    """`giveback` alone, right after `none` alone, was 15 % faster: the host's load differed."""
    results = [
        replace(r, sitting=sittings[r.cell.strategy == "giveback"])
        for r in make_results(("files",), SHAPES, 1)
    ]
    assert (judged(results, "slowed").comparison is not None) is compare
    assert judged(results, "footprint").comparison is not None


def two_sittings() -> list[CellResult]:
    """Return `none` and WSL's from a day on which all took twice as long; giveback's later, with `none`."""
    slow = ("none", "wsl-gen2-gradual")

    def doubled(vm: VmCourse) -> VmCourse:
        samples = tuple(replace(s, vmm_user_s=2 * s.vmm_user_s) for s in vm.samples)
        return replace(vm, work_s=2 * vm.work_s, samples=samples)

    results = [
        r for r in make_results(("files",), SHAPES, 2) if r.cell.strategy in (*slow, "giveback")
    ]
    first = [
        replace(r, sitting="a", vms=tuple(map(doubled, r.vms)))
        for r in results
        if r.cell.strategy in slow
    ]
    return first + [
        replace(r, sitting="b") for r in results if r.cell.strategy in ("none", "giveback")
    ]


def test_each_is_held_against_none_of_its_own_sitting() -> None:
    results = two_sittings()
    (group,) = groups(results)
    assert len(group.of("none")) == 2
    assert {cell.result.sitting for cell in group.of("none")} == {"b"}
    assert {cell.result.sitting for cell in group.nones} == {"a", "b"}
    for name in ("giveback", "wsl-gen2-gradual"):
        for ratio in group.values(name, "slow_ratio").values():
            assert ratio == pytest.approx(1, abs=0.1)
    assert not any("slows" in what for what in harm(group, "wsl-gen2-gradual"))
    assert judged(results, "slowed").comparison is not None


def test_what_differs_between_sittings_is_no_noise_of_a_round() -> None:
    (group,) = groups(two_sittings())
    baseline = group.baseline("work_s")
    assert len(baseline) == 4
    assert max(baseline) / min(baseline) < 1.1
    assert group.baseline("peak_bytes") == list(group.values("none", "peak_bytes").values())
    (first_round,) = groups([r for r in two_sittings() if r.cell.round == 1])
    assert first_round.baseline("work_s") == []


def test_times_of_two_sittings_compare_as_multiples_of_none() -> None:
    (group,) = groups(two_sittings())
    plain = group.values("wsl-gen2-gradual", "work_s")
    beside = group.comparable("wsl-gen2-gradual", "work_s", "giveback")
    assert beside.keys() == plain.keys()
    for number, value in beside.items():
        assert value == pytest.approx(plain[number] / 2, rel=0.1)
    finding = judged(two_sittings(), "cpu")
    assert finding.comparison is not None
    assert "another sitting" in finding.remark
    assert "another sitting" not in judged(two_sittings(), "slowed").remark
    (faster,) = groups(changed(two_sittings(), "wsl-gen2-gradual", longer(0.8)))
    assert best_by(faster, ["none", "wsl-gen2-gradual"], "work_s") == "wsl-gen2-gradual"
    without = [r for r in two_sittings() if (r.cell.strategy, r.sitting) != ("none", "a")]
    assert judged(without, "cpu").verdict is Verdict.UNMEASURED


def test_of_two_rounds_the_one_of_one_sitting_tells_the_time() -> None:
    results = [
        replace(r, started_at="2026-11-25T09:00:00+00:00")
        if (r.cell.strategy, r.cell.round) == ("none", 2)
        else r
        for r in make_results(("files",), SHAPES, 2)
    ]
    (group,) = groups(results)
    assert set(group.comparable("giveback", "work_s", "none")) == {1}
    assert set(group.comparable("giveback", "peak_bytes", "none")) == {1, 2}
    assert set(group.values("giveback", "slow_ratio")) == {1}
    comparison = judged(results, "slowed").comparison
    assert comparison is not None
    assert comparison.count == 1
