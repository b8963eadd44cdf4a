"""The figures of a run, and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import cut, make_run, make_vm, patient, runs

from giveback.errors import InputError
from giveback_kernel.units import GIB, MIB
from giveback_lab.report.run import (
    DemoRun,
    RunSample,
    VmFigures,
    VmRun,
    figures,
    run_figures,
)
from giveback_lab.report.run_json import from_json, to_json
from giveback_lab.report.series import resident_at


def vm_of(*points: tuple[float, int], end_s: float | None, needed: int | None = None) -> VmRun:
    samples = tuple(RunSample(t_s, size * MIB, 10 * MIB, 5 * MIB) for t_s, size in points)
    needed_bytes = None if needed is None else needed * MIB
    return VmRun("giveback", "", GIB, samples=samples, work_end_s=end_s, needed_bytes=needed_bytes)


def test_figures_of_a_step() -> None:
    vm = vm_of((0, 10), (10, 100), (20, 60), (30, 28), (70, 20), end_s=10, needed=20)
    found = figures(vm)
    assert found.peak_bytes == found.work_end_bytes == 100 * MIB
    assert found.resident_now_bytes == 20 * MIB
    assert found.returnable_bytes == 80 * MIB
    assert (found.half_back_s, found.ninety_back_s) == (10, 20)
    assert found.residue_now_bytes == found.residue_after_60_s_bytes == 5 * MIB
    assert found.observed_after_work_s == 60


def test_footprint_is_the_integral_of_resident() -> None:
    vm = vm_of((0, 512), (30, 512), (90, 0), end_s=30)
    assert figures(vm).footprint_gib_min == pytest.approx(0.25)
    assert figures(vm, window_s=30).footprint_gib_min == pytest.approx(0.1875)


def test_footprint_window_is_the_one_that_both_vms_were_measured_for() -> None:
    run = DemoRun(
        (
            replace(vm_of((0, 512), (100, 512), end_s=40), name="plain"),
            vm_of((0, 512), (80, 512), end_s=50),
        ),
        *("kvm", "10.0", "6.12", "host"),
        *(1, 2, "", "0.1.0"),
    )
    plain, giveback = run_figures(run)
    assert plain.footprint_s == giveback.footprint_s == 30
    assert plain.footprint_gib_min == giveback.footprint_gib_min == pytest.approx(0.25)
    assert giveback.slowdown_ratio == pytest.approx(1.25)
    assert plain.slowdown_ratio is None


def test_residue_a_minute_later_is_unknown_without_a_sample_near_it() -> None:
    assert figures(vm_of((0, 50), (54, 40), end_s=0)).residue_after_60_s_bytes is None
    assert figures(vm_of((0, 50), (56, 40), end_s=0)).residue_after_60_s_bytes == 25 * MIB


def test_a_silent_guest_is_not_told_as_now() -> None:
    vm = vm_of((0, 50), (10, 40), end_s=0)
    silent = replace(vm, samples=(vm.samples[0], RunSample(10, 40 * MIB)))
    assert figures(silent).non_free_now_bytes is None
    assert figures(silent).resident_now_bytes == 40 * MIB


def test_nothing_comes_of_nothing() -> None:
    empty = figures(VmRun("plain", "", GIB))
    assert all(getattr(empty, name) is None for name in VmFigures.__slots__)


def test_nothing_is_back_where_nothing_was_returnable() -> None:
    found = figures(vm_of((0, 50), (10, 40), end_s=0, needed=60))
    assert found.returnable_bytes == 0
    assert found.half_back_s is None


def test_work_in_the_made_up_run() -> None:
    plain, giveback = run_figures(make_run())
    assert plain.half_back_s is None
    assert giveback.half_back_s is not None
    assert giveback.ninety_back_s is not None
    assert giveback.half_back_s < giveback.ninety_back_s
    assert giveback.slowdown_ratio == pytest.approx(119.6 / 118)


@given(runs())
@patient
def test_figures_hold_together(run: DemoRun) -> None:
    for vm, found in zip(run.vms, run_figures(run), strict=True):
        sizes = [sample.resident_bytes for sample in vm.samples]
        assert found.peak_bytes == max(sizes, default=None)
        if found.half_back_s is not None and found.ninety_back_s is not None:
            assert 0 <= found.half_back_s <= found.ninety_back_s
        assert found.half_back_s is not None or found.ninety_back_s is None
        if found.footprint_gib_min is not None and found.footprint_s is not None:
            minutes = found.footprint_s / 60
            assert found.footprint_gib_min <= max(sizes) / GIB * minutes * 1.000001 + 1e-9
            assert found.footprint_gib_min >= min(sizes) / GIB * minutes * 0.999999 - 1e-9
        if found.returnable_bytes is not None and found.work_end_bytes is not None:
            assert 0 <= found.returnable_bytes <= found.work_end_bytes


@given(runs(), st.floats(-400, 6000))
@patient
def test_resident_between_samples_is_between_their_values(run: DemoRun, t_s: float) -> None:
    for vm in run.vms:
        if vm.samples:
            sizes = [sample.resident_bytes for sample in vm.samples]
            assert min(sizes) - 1 <= resident_at(vm.samples, t_s) <= max(sizes) + 1


@given(runs())
@patient
def test_json_keeps_everything(run: DemoRun) -> None:
    assert from_json(to_json(run)) == run


@pytest.mark.parametrize("until_s", [-99, -20, 40, 119, 300])
def test_json_of_a_run_that_was_cut_short(until_s: float) -> None:
    run = cut(make_run(), until_s)
    assert from_json(to_json(run)) == run


def test_json_says_the_figures_and_a_sample_a_line() -> None:
    text = to_json(make_run())
    told = json.loads(text)
    assert told["schema"] == "giveback-demo"
    assert told["version"] == 1
    assert told["vms"][1]["figures"]["ninety_back_s"] > 0
    samples = sum(len(vm.samples) for vm in make_run().vms)
    assert sum(line.startswith('    {"t_s"') for line in text.splitlines()) >= samples


def test_json_refuses_a_time_that_is_none() -> None:
    vm = replace(make_vm("plain"), work_start_s=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        to_json(replace(make_run(), vms=(vm,)))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"version": 1', '"version": 2', "demo.json: version: should be 1"),
        ('"schema": "giveback-demo"', '"schema": "other"', "demo.json: schema: should be"),
        ('"seed": 1', '"seed": 1.5', "demo.json: seed: should be a valid integer"),
        ('"seed": 1', '"seed": true', "demo.json: seed"),
        ('"cpus": 2,', "", "cpus: field required"),
        ('"name": "giveback"', '"name": "plain"', "the same VM is there twice"),
        ('"name": "giveback"', '"name": "other"', "vms[1].name: should be 'plain' or 'giveback'"),
        ('"resident_bytes": ', '"resident_bytes": -1', "samples[0].resident_bytes"),
        ('"t_s": ', '"t_s": 1e999, "x": ', "samples[0].t_s: should be a finite number"),
        ('"t_s": ', '"t_s": 9999, "x": ', "not in order of time"),
        ('"kind": "reclaim"', '"kind": "reboot"', "kind: should be 'reclaim', "),
        ('"dmesg": []', '"dmesg": {}', "dmesg: should be a list"),
        ('"dmesg": []', '"dmesg": [7]', "dmesg[0]: should be a valid string"),
        ('"vms": [', '"vms": [3, ', "vms[0]: should be an object"),
    ],
)
def test_json_that_is_wrong_is_named(old: str, new: str, told: str) -> None:
    text = to_json(make_run())
    assert old in text
    with pytest.raises(InputError) as error:
        from_json(text.replace(old, new, 1), "demo.json")
    assert told in str(error.value)


@given(st.text() | st.sampled_from(["[" * 100_000, "9" * 5000, '{"version":NaN}', "[]", "null"]))
@patient
def test_text_that_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        from_json(text)
