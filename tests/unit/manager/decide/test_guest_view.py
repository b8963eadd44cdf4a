"""The arbiter's view of a VM: the guest's own numbers, limited by the host's measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback.accounting.ledger import Key
from giveback.accounting.observation import Observation
from giveback.accounting.returnable import AGENT_FLOOR_BYTES
from giveback.accounting.usage import NO_GUEST, GuestSnapshot, GuestSource, HostSnapshot
from giveback.guest.observe import make_ledger
from giveback.manager.decide.guest_view import view_of
from giveback.manager.decide.promises import Trust
from giveback.manager.model import GuestView
from giveback.manager.settings.load import VmSettings
from giveback.vmm.base import (
    Answer,
    Capabilities,
    Channel,
    ChannelKind,
    RamBlock,
    VmDescription,
    VmState,
)

MIB, GIB = 1 << 20, 1 << 30
RAM = 4 * GIB
PORT = Channel(ChannelKind.VIRTIO_SERIAL, "/run/agent.sock")
VM = VmDescription(
    "qemu",
    "web",
    77,
    RAM,
    (RamBlock("pc.ram", RAM),),
    Capabilities(reports_pages=Answer.YES),
    (PORT,),
)
GUEST = GuestSnapshot(
    source=GuestSource.AGENT,
    age_s=1.0,
    total_bytes=RAM - 64 * MIB,
    free_bytes=GIB,
    available_bytes=2500 * MIB,
    anon_bytes=900 * MIB,
    shmem_bytes=10 * MIB,
    cache_bytes=1700 * MIB,
    dirty_bytes=100 * MIB,
    cold_cache_bytes=700 * MIB,
    free_by_order=(300 * MIB,) + (0,) * 8 + (GIB - 300 * MIB,),
    report_order=9,
    reporting=True,
)


def seen(
    guest: GuestSnapshot = GUEST, resident: int = 3200 * MIB, state: VmState | None = None
) -> Observation:
    host = HostSnapshot(ram_resident_bytes=resident, ram_pss_bytes=resident)
    state = state or VmState(running=True)
    return Observation(VM, state, host, guest, make_ledger(VM, state, host, guest))


def view(observation: Observation, **settings: object) -> GuestView:
    made = VmSettings(**settings)  # type: ignore[arg-type]
    return view_of(observation, made, key="qemu:web:77", hears=bool(observation.vm.channels))


def test_the_parts_come_from_the_ledger_and_the_guests_cold_cache() -> None:
    observation = seen()
    ledger = observation.ledger
    assert ledger is not None
    found = view(observation)
    assert found.resident_bytes == 3200 * MIB
    assert found.trapped_bytes == ledger.residue_bytes == 128 * MIB
    assert found.cold_bytes == 700 * MIB
    # Clean cache less what an agent keeps, within what the guest calls available beside free.
    assert found.cold_bytes + found.warm_bytes == min(
        1600 * MIB - AGENT_FLOOR_BYTES, 2500 * MIB - GIB
    )
    assert found.fresh
    assert found.hears_urgency
    assert not found.pressed
    assert found.key == "qemu:web:77"


def test_an_agent_that_tells_its_floors_is_asked_for_what_a_pass_would_take() -> None:
    told = replace(GUEST, would_take_bytes=120 * MIB, cache_floor_bytes=500 * MIB)
    found = view(seen(told))
    assert found.cold_bytes == 120 * MIB
    assert found.cold_bytes + found.warm_bytes == (1600 - 500) * MIB
    # The rest of the cold cache counts as warm: it is returned at urgency 2.
    assert view(seen(replace(told, would_take_bytes=0))).cold_bytes == 0
    # Nor is more promised than the host holds above the floor.
    boasting = replace(told, would_take_bytes=1600 * MIB)
    assert view(seen(boasting)).cold_bytes == (1600 - 500) * MIB


def test_what_is_not_resident_is_taken_off_the_cache() -> None:
    found = view(seen(resident=2000 * MIB))
    ledger = seen(resident=2000 * MIB).ledger
    assert ledger is not None
    absent = ledger.ram(Key.NOT_RESIDENT)
    assert absent > GIB // 2
    assert found.trapped_bytes == 0
    assert found.cold_bytes + found.warm_bytes == 1600 * MIB - absent - AGENT_FLOOR_BYTES


def test_settings_are_passed_on() -> None:
    found = view_of(
        seen(),
        VmSettings(floor_bytes=GIB, weight=3.0),
        key="mine",
        trust=Trust(0.5, proven_bytes=MIB),
        asked_at_s=7.0,
        hears=False,
    )
    assert (found.key, found.floor_bytes, found.weight) == ("mine", GIB, 3.0)
    assert (found.reliability, found.asked_at_s, found.hears_urgency) == (0.5, 7.0, False)
    assert found.proven_bytes == MIB


def nothing(found: GuestView) -> bool:
    return found.trapped_bytes == found.cold_bytes == found.warm_bytes == 0


def test_a_vm_that_cannot_be_reached_is_expected_to_return_nothing() -> None:
    deaf = replace(seen(), vm=replace(VM, channels=()))
    assert nothing(view(deaf))
    assert not nothing(view(deaf, balloon=True))
    assert not nothing(view(deaf, virtio_mem=True))
    assert nothing(view(seen(), ignore=True))


def test_a_device_that_may_not_take_is_expected_to_give_nothing() -> None:
    for state in (
        VmState(reporting_negotiated=Answer.YES),
        VmState(blockers=("VFIO pins memory",)),
    ):
        deaf = replace(seen(state=state), vm=replace(VM, channels=()))
        assert nothing(view(deaf, balloon=True))
    reports = replace(
        seen(state=VmState(reporting_negotiated=Answer.YES)), vm=replace(VM, channels=())
    )
    assert not nothing(view(reports, balloon=True, although_reports=True))


@pytest.mark.parametrize(
    ("guest", "state"),
    [
        (replace(GUEST, age_s=31.0), None),
        (replace(GUEST, age_s=None), None),
        (replace(GUEST, age_s=-5.0), None),
        (NO_GUEST, None),
        (GUEST, VmState(running=False)),
    ],
)
def test_old_numbers_and_a_paused_guest_are_not_fresh(
    guest: GuestSnapshot, state: VmState | None
) -> None:
    assert not view(seen(guest, state=state)).fresh


def test_a_host_side_that_may_not_be_read_gives_nothing_to_verify_by() -> None:
    barred = Observation(VM, VmState(), None, GUEST, None, (), 900 * MIB)
    found = view(barred)
    assert nothing(found)
    assert not found.fresh
    assert found.resident_bytes == 900 * MIB


@pytest.mark.parametrize(
    ("available", "pressed"), [(200 * MIB, True), (400 * MIB, False), (None, False)]
)
def test_a_guest_with_little_available_is_pressed(available: int | None, pressed: bool) -> None:
    assert view(seen(replace(GUEST, available_bytes=available))).pressed is pressed


AMOUNT = st.none() | st.integers(0, 1 << 57) | st.integers(0, 4 * GIB)


@settings(deadline=None)
@given(
    st.builds(
        GuestSnapshot,
        source=st.just(GuestSource.AGENT),
        age_s=st.none() | st.floats(),
        total_bytes=AMOUNT,
        free_bytes=AMOUNT,
        available_bytes=AMOUNT,
        anon_bytes=AMOUNT,
        shmem_bytes=AMOUNT,
        cache_bytes=AMOUNT,
        dirty_bytes=AMOUNT,
        cold_cache_bytes=AMOUNT,
        slab_reclaimable_bytes=AMOUNT,
        free_by_order=st.just(()) | st.tuples(st.integers(0, GIB), st.integers(0, GIB)),
        report_order=st.none() | st.integers(0, 3),
        reporting=st.none() | st.booleans(),
    ),
    st.integers(0, 5 * GIB),
)
def test_no_guest_is_believed_beyond_what_is_resident(guest: GuestSnapshot, resident: int) -> None:
    found = view(seen(guest, resident))
    parts = found.trapped_bytes, found.cold_bytes, found.warm_bytes
    assert min(parts) >= 0
    assert sum(parts) <= found.resident_bytes == resident
    assert found.cold_bytes <= (guest.cold_cache_bytes or 0)
    ledger = seen(guest, resident).ledger
    if ledger is not None and ledger.needed_bytes is not None and guest.cache_bytes is not None:
        assert found.trapped_bytes <= max(0, ledger.residue_bytes or 0)


@settings(deadline=None)
@given(st.integers(0, 4 * GIB), st.integers(0, 4 * GIB))
def test_a_guest_that_claims_more_cold_cache_only_turns_warm_into_cold(
    honest: int, claimed: int
) -> None:
    low, high = sorted((honest, claimed))
    less = view(seen(replace(GUEST, cold_cache_bytes=low)))
    more = view(seen(replace(GUEST, cold_cache_bytes=high)))
    assert less.cold_bytes + less.warm_bytes == more.cold_bytes + more.warm_bytes
    assert less.cold_bytes <= more.cold_bytes
