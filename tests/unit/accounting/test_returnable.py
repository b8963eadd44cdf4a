"""Returnable memory: three disjoint parts within resident memory, equal wherever they are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observations import GUEST, HOST, MIB, observation

from giveback.accounting.diagnosis import remedies
from giveback.accounting.returnable import AGENT_FLOOR_BYTES, Returnable, returnable_of
from giveback.accounting.usage import NO_GUEST, GuestSnapshot, HostSnapshot

MAYBE = st.none() | st.integers(0, 1 << 31)


def test_residue_and_cache_above_the_floor() -> None:
    found = returnable_of(observation())
    # Clean cache of 150 minus the floor of 64 is less than the cold 100: all of it goes at urgency 1.
    assert found == Returnable(350 * MIB, 150 * MIB - AGENT_FLOOR_BYTES, 0)
    assert found.total_bytes == 436 * MIB


def test_cache_below_the_learned_floor_is_warm() -> None:
    found = returnable_of(observation(guest=replace(GUEST, learned_floor_bytes=60 * MIB)))
    assert found == Returnable(350 * MIB, 40 * MIB, 46 * MIB)


@pytest.mark.parametrize(
    ("guest", "host"),
    [
        (NO_GUEST, HOST),
        (replace(GUEST, age_s=61.0), HOST),
        (replace(GUEST, total_bytes=8 << 30, free_bytes=4 << 30), HOST),
        (GUEST, replace(HOST, placed=False)),
        (GUEST, None),
    ],
)
def test_a_vm_with_an_unknown_side_has_no_returnable_memory(
    guest: GuestSnapshot, host: HostSnapshot | None
) -> None:
    assert returnable_of(observation(guest=guest, host=host)) is None


@given(
    st.builds(
        GuestSnapshot,
        total_bytes=MAYBE, free_bytes=MAYBE, available_bytes=MAYBE, cache_bytes=MAYBE,
        dirty_bytes=MAYBE, cold_cache_bytes=MAYBE, learned_floor_bytes=MAYBE,
    ),
    st.integers(0, 1 << 30),
)  # fmt: skip
def test_the_parts_lie_within_resident_memory(guest: GuestSnapshot, resident_bytes: int) -> None:
    seen = observation(guest=guest, host=HostSnapshot(resident_bytes))
    found = returnable_of(seen)
    if found is not None:
        assert min(found.residue_bytes, found.cold_bytes, found.warm_bytes) >= 0
        assert found.total_bytes <= resident_bytes
        assert seen.ledger is not None
        assert found.residue_bytes == seen.ledger.residue_bytes
        offered = [r.expected_bytes for r in remedies(seen) if "cold page cache" in r.what]
        assert offered in ([], [found.cold_bytes])


def test_memory_that_is_mapped_many_times_counts_once() -> None:
    whole = returnable_of(observation())
    host = observation().host
    assert whole is not None
    assert host is not None
    shared = replace(host, ram_shared_bytes=host.ram_resident_bytes * 63 // 64)
    found = returnable_of(observation(host=shared))
    assert found is not None
    assert 0 < found.total_bytes <= whole.total_bytes // 64
