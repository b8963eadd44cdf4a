"""The host's side at little cost: exact sums, and mappings that are read only if necessary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting.usage import HostSnapshot
from giveback.manager.decide import resident_counts
from giveback.manager.decide.resident_counts import Counts, Mappings

MIB = 1 << 20
AMOUNTS = st.integers(0, 1 << 40)


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_snapshot_is_carried_to_exactly_the_sums_of_now(
    ram: int, own: int, swap: int, rss: int, swapped: int, ram_bytes: int, hugetlb: int
) -> None:
    before = HostSnapshot(ram, ram_swap_bytes=swap, own_resident_bytes=own, own_pss_bytes=own)
    mappings = Mappings(before, Counts(ram + own, swap), 0.0, 0.001)
    now = Counts(rss, swapped, hugetlb)
    after = resident_counts.carried(mappings, now, ram_bytes)
    assert after.resident_bytes == now.resident_bytes
    assert after.ram_swap_bytes + after.own_swap_bytes == swapped
    assert min(after.ram_resident_bytes, after.own_resident_bytes, after.ram_swap_bytes) >= 0
    assert after.ram_resident_bytes <= max(ram, ram_bytes)


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 4096))
def test_memory_that_is_mapped_many_times_counts_once_and_unmapping_it_returns_nothing(
    ram: int, left: int, times: int
) -> None:
    held = ram // times
    left = min(left, ram)
    mappings = Mappings(HostSnapshot(ram, ram_shared_bytes=ram - held), Counts(ram), 0.0, 0.001)
    before = resident_counts.held_bytes(mappings, Counts(ram), ram)
    after = resident_counts.held_bytes(mappings, Counts(left), ram)
    assert before == held
    assert 0 <= before - after <= held + 1
    assert resident_counts.held_bytes(None, Counts(left), ram) == left


def test_memory_that_went_while_the_mappings_were_read_is_not_missed() -> None:
    snapshot = HostSnapshot(224 * MIB, own_resident_bytes=8 * MIB)
    held, freed = Counts(232 * MIB), Counts(72 * MIB)
    assert resident_counts.base(snapshot, held, held) == held
    mappings = Mappings(snapshot, resident_counts.base(snapshot, held, freed), 0.0, 0.001)
    assert resident_counts.carried(mappings, freed, 256 * MIB).ram_resident_bytes == 64 * MIB


def test_mappings_are_read_when_much_has_moved_or_long_ago() -> None:
    old = Mappings(HostSnapshot(1 << 30), Counts(1 << 30), 1000.0, 0.05)
    same, moved = Counts(1 << 30), Counts((1 << 30) + 40 * MIB)
    assert resident_counts.must_read_mappings(None, same, 0.0)
    assert not resident_counts.must_read_mappings(old, same, 1010.0)
    assert resident_counts.must_read_mappings(old, moved, 1010.0)
    assert not resident_counts.must_read_mappings(old, moved, 1004.0), (
        "at most a hundredth of the time"
    )
    assert resident_counts.must_read_mappings(old, same, 1301.0)
    assert resident_counts.must_read_mappings(old, Counts(1 << 30, 40 * MIB), 1010.0)
