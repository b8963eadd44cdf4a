"""Proxmox's rule: examples like those of its own tests, and properties for any VMs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback_lab.bench.strategies.proxmox_rule import (
    DEAD_BAND_BYTES,
    MOST_CHANGE_BYTES,
    BalloonVm,
    decide,
    goal_bytes,
)

MIB = 1 << 20
GIB = 1 << 30


def vm(
    name: str, size: int, free: int | None = 900, least: int = 1024, shares: int = 1000
) -> BalloonVm:
    """Return a VM of 2 GiB; sizes in MiB."""
    told = None if free is None else free * MIB
    return BalloonVm(name, size * MIB, least * MIB, 2 * GIB, told, shares)


VMS = st.lists(
    st.builds(
        lambda least, above, most_above, free, shares: (
            least * MIB, (least + min(above, most_above)) * MIB, (least + most_above) * MIB,
            None if free is None else free * MIB, shares,
        ),
        st.integers(64, 4096), st.integers(0, 4096), st.integers(0, 4096),
        st.none() | st.integers(0, 4096), st.integers(1, 5000),
    ),
    max_size=5,
).map(
    lambda rows: [
        BalloonVm(f"vm{number}", size, least, most, free, shares)
        for number, (least, size, most, free, shares) in enumerate(rows)
    ]
)  # fmt: skip


def test_the_goal_is_four_fifths_of_the_host() -> None:
    assert goal_bytes(10 * GIB, 6 * GIB) == 2 * GIB
    assert goal_bytes(10 * GIB, 9 * GIB) == -GIB


def test_within_the_dead_band_nothing_changes() -> None:
    for goal in (DEAD_BAND_BYTES, 0, -DEAD_BAND_BYTES):
        assert decide([vm("a", 1500)], goal) == {}


def test_a_vm_shrinks_by_a_step_at_most() -> None:
    assert decide([vm("a", 2048)], -GIB) == {"a": 1948 * MIB}
    assert decide([vm("a", 2048)], -50 * MIB) == {"a": 1998 * MIB}


def test_no_vm_shrinks_below_its_minimum() -> None:
    assert decide([vm("a", 1030)], -GIB) == {"a": 1024 * MIB}
    assert decide([vm("a", 1024)], -GIB) == {}


def test_the_one_with_free_memory_shrinks_first() -> None:
    assert decide([vm("a", 2048, free=10), vm("b", 2048)], -GIB) == {"b": 1948 * MIB}


def test_without_one_all_shrink() -> None:
    sizes = decide([vm("a", 2048, free=10), vm("b", 2048, free=None)], -GIB)
    assert sizes == {"a": 1948 * MIB, "b": 1948 * MIB}


def test_the_one_without_free_memory_grows_first() -> None:
    assert decide([vm("a", 1024, free=10), vm("b", 1024)], GIB) == {"a": 1124 * MIB}


def test_a_whole_vm_does_not_grow() -> None:
    assert decide([vm("a", 2048)], GIB) == {}


def test_shares_decide_who_gets_how_much() -> None:
    sizes = decide([vm("a", 1024, free=0, shares=3000), vm("b", 1024, free=0)], 80 * MIB)
    assert sizes == {"a": 1084 * MIB, "b": 1044 * MIB}


@given(VMS, st.integers(-16 * GIB, 16 * GIB))
def test_every_new_size_is_within_bounds_and_a_step(vms: list[BalloonVm], goal: int) -> None:
    by_name = {one.name: one for one in vms}
    for name, size in decide(vms, goal).items():
        one = by_name[name]
        assert one.least_bytes <= size <= one.most_bytes
        assert 0 < abs(size - one.size_bytes) <= MOST_CHANGE_BYTES


@given(VMS, st.integers(DEAD_BAND_BYTES + 1, 16 * GIB))
def test_a_host_in_need_lets_no_vm_grow(vms: list[BalloonVm], need: int) -> None:
    """It may take more than it needs: so does Proxmox, where a VM at its limit leaves the sharing."""
    sizes = decide(vms, -need)
    assert all(sizes[one.name] < one.size_bytes for one in vms if one.name in sizes)
    could = [one for one in vms if one.size_bytes > one.least_bytes]
    assert bool(sizes) <= bool(could)
