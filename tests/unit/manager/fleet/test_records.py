"""The records of a VM's sides: the guest's report, the host's sample, the VMM's answer."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.usage import STALE_S, GuestSnapshot, GuestSource, HostSnapshot
from giveback.manager.decide import schedule
from giveback.manager.decide.guest_view import FRESH_S
from giveback.manager.decide.resident_counts import Counts, Mappings
from giveback.manager.fleet.guest_state import GuestState
from giveback.manager.fleet.host_sample import HostSample
from giveback.manager.fleet.vmm_state import VmmState
from giveback.vmm.base import VmDescription, VmState

MIB = 1 << 20
VM = VmDescription("qemu", "web", 7, 256 * MIB, ())
HELD = Counts(232 * MIB)
MAPPINGS = Mappings(HostSnapshot(224 * MIB, own_resident_bytes=8 * MIB), HELD, 0.0, 0.001)


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_reports_age_grows_and_is_taken_again_at_each_limit(age_s: float, later_s: float) -> None:
    guest = GuestState()
    assert guest.aged(5.0) == (guest.report, math.inf)
    guest.take_report(GuestSnapshot(GuestSource.AGENT, age_s, 256 * MIB), 10.0)
    aged, until_s = guest.aged(10.0 + later_s)
    assert aged.age_s is not None
    assert abs(aged.age_s - age_s - later_s) < 1e-6
    assert until_s > 10.0 + later_s
    assert until_s == math.inf or any(
        abs(until_s - 10.0 + age_s - limit_s) < 0.2 for limit_s in (FRESH_S, STALE_S)
    )


def test_an_agent_that_answers_again_is_not_silent() -> None:
    guest = GuestState()
    for number in range(1, 4):
        guest.miss(100.0)
        assert (guest.missed, guest.due_s) == (number, 100.0 + schedule.GUEST_CALM_S * number)
    guest.hurry(110.0)
    guest.hurry(150.0)
    assert guest.due_s == 110.0
    # Whatever else it says, and however often it comes back.
    guest.hear()
    guest.connect()
    assert (guest.missed, guest.had_agent) == (3, True)
    guest.answer()
    assert (guest.missed, guest.had_agent) == (0, True)


def test_an_agent_that_greets_again_and_again_or_answers_nonsense_is_silent() -> None:
    restarted = GuestState()
    restarted.miss(100.0)
    restarted.greet(110.0)
    assert (restarted.missed, restarted.due_s) == (1, 110.0)
    restarted.answer()
    restarted.greet(200.0)
    assert restarted.missed == 0
    greets, refuses = GuestState(), GuestState()
    for number in range(4):
        assert not schedule.is_silent(greets.missed)
        assert not schedule.is_silent(refuses.missed)
        greets.greet(float(number))
        greets.hear()
        refuses.evade()
    assert greets.had_agent
    assert schedule.is_silent(greets.missed)
    assert schedule.is_silent(refuses.missed)


def test_a_sample_that_tells_nothing_new_changes_no_usage() -> None:
    host = HostSample(0.0)
    assert not host.take(HELD, 1.0, 256 * MIB)
    host.take_mappings(MAPPINGS, (), 256 * MIB)
    assert host.usage == MAPPINGS.snapshot
    assert not host.take(HELD, 2.0, 256 * MIB)
    assert host.take(Counts(72 * MIB), 3.0, 256 * MIB)
    assert (host.sampled_at_s, host.usage) == (
        3.0,
        replace(MAPPINGS.snapshot, ram_resident_bytes=64 * MIB, ram_pss_bytes=0),
    )


def test_sums_between_two_samples_are_no_sample() -> None:
    host = HostSample(0.0)
    host.take_mappings(MAPPINGS, (), 256 * MIB)
    host.take(HELD, 1.0, 256 * MIB)
    assert not host.recount(HELD, 256 * MIB)
    assert host.recount(Counts(72 * MIB), 256 * MIB)
    assert host.sampled_at_s == 1.0
    assert host.usage is not None
    assert host.usage.ram_resident_bytes == 64 * MIB


def test_mappings_are_read_by_one_at_a_time_and_later_where_they_cannot() -> None:
    host = HostSample(0.0)
    assert host.needs_mappings(HELD, 0.0)
    host.begin_reading()
    assert not host.needs_mappings(HELD, 0.0)
    host.refuse_mappings("no right", 0.0)
    host.end_reading()
    assert not host.needs_mappings(HELD, schedule.UNREADABLE_AGAIN_S - 0.1)
    assert host.needs_mappings(HELD, schedule.UNREADABLE_AGAIN_S)
    host.take_mappings(MAPPINGS, (), 256 * MIB)
    assert host.unreadable == ""


def test_a_vmm_that_falls_silent_leaves_its_last_answer_and_is_asked_less_often() -> None:
    assert not VmmState(VM, 0.0).should_answer
    vmm = VmmState(VM, 0.0)
    other = replace(VM, control="/run/web.q")
    assert vmm.take(VmState(running=True, description=other), 1.0, 0.5)
    assert (vmm.description, vmm.inspected_at_s) == (other, 1.0)
    assert vmm.should_answer
    waits_s = []
    for _ in range(8):
        assert not vmm.take(VmState(problems=("no answer",)), 2.0, 0.5)
        waits_s.append(vmm.due_s - 2.0)
    assert (vmm.state.running, vmm.state.problems) == (True, ("no answer",))
    assert waits_s == [15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    vmm.hurry(3.0)
    assert vmm.due_s == 3.0
