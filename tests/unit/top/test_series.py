"""The last values: by monotonic steps, bounded, and without VMs that are gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from top_samples import snapshot, top_vm

from giveback.top.series import POINTS, STEP_S, LastValues


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_no_times_break_it_or_let_it_grow(times: list[float]) -> None:
    values = LastValues()
    for at_s in times:
        values.take([top_vm()], at_s)
        assert len(values.of("qemu:web:100")) <= POINTS
        assert values.of("qemu:web:100")[-1] == top_vm().resident_bytes


def test_one_value_a_step_and_steps_without_one_are_unknown() -> None:
    values = LastValues()
    for at, resident in ((0.0, 1), (1.0, 2), (STEP_S, 3), (3 * STEP_S, 4)):
        values.take([top_vm(resident_bytes=resident)], at)
    assert values.of("qemu:web:100") == (2, 3, None, 4)


def test_vms_that_are_gone_are_forgotten() -> None:
    values = LastValues()
    values.take([top_vm(), top_vm("db", 2)], 0.0)
    values.take([top_vm("db", 2)], STEP_S)
    assert len(values) == 1
    assert values.of("qemu:web:100") == ()


def test_the_history_fills_what_was_before_and_hides_nothing_newer() -> None:
    values = LastValues()
    values.take([top_vm(resident_bytes=9)], 0.0)
    before = [snapshot(top_vm(resident_bytes=at), top_vm("gone", 3)) for at in (1, 2)]
    values.prefill(before, 2 * STEP_S)
    assert values.of("qemu:web:100")[-5:] == (1, 1, 2, 2, 9)
    assert len(values.of("qemu:web:100")) == POINTS
    values.prefill([snapshot(top_vm())] * 100, STEP_S)
    assert values.of("qemu:web:100")[-1] == 9
