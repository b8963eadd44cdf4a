"""Guest addresses by machine type, if no monitor tells them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.vmm.base import GuestRange, RamBlock, VmDescription, VmState
from giveback.vmm.layout import Placement, assumed, placements
from giveback.vmm.mapping import BoundBlock

GIB = 1 << 30


def vm(machine: str, ram_bytes: int) -> VmDescription:
    return VmDescription("qemu", "one", 1, ram_bytes, (RamBlock("r", ram_bytes),), machine=machine)


@pytest.mark.parametrize(
    ("machine", "gib", "low_gib"),
    [("pc", 3, 3), ("pc", 4, 3), ("pc-i440fx-8.2", 3.5, 3), ("q35", 2, 2), ("pc-q35-7.2", 4, 2)],
)
def test_the_hole_below_4_gib(machine: str, gib: float, low_gib: int) -> None:
    ranges = assumed(vm(machine, int(gib * GIB)))
    assert ranges[0] == GuestRange(0, low_gib * GIB, "r", 0)
    assert [r.guest_start for r in ranges[1:]] == ([] if gib == low_gib else [4 * GIB])


@given(st.sampled_from(["pc", "q35", "virt-9.0", ""]), st.integers(1, 900 * 1024))
def test_all_of_ram_is_placed_exactly_once(machine: str, mib: int) -> None:
    size = mib << 20
    ranges = assumed(vm(machine, size))
    assert sum(r.size_bytes for r in ranges) == size
    at = 0
    for place in ranges:
        assert place.block_offset == at
        assert place.size_bytes > 0
        at += place.size_bytes
    assert all(a.guest_start + a.size_bytes <= b.guest_start for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize("machine", ["microvm", "pc,max-ram-below-4g=1G", "pseries", "xenfv"])
def test_no_layout_is_assumed_for_an_unknown_configuration(machine: str) -> None:
    assert assumed(vm(machine, GIB)) == ()
    assert placements(vm(machine, GIB), VmState(), bound((10, 11)), "x86_64") == ()
    two = replace(vm("pc", 2 * GIB), ram_blocks=(RamBlock("a", GIB), RamBlock("b", GIB)))
    assert assumed(two) == ()
    assert assumed(vm("pc", 2000 * GIB)) == ()


def test_qemus_own_layout_is_preferred_to_the_assumed_one() -> None:
    told = VmState(layout=(GuestRange(0, 5, "ram", 0),))
    blocks = bound((10, 11))
    assert placements(vm("pc", GIB), told, blocks, "x86_64") == ((Placement(0, 10 * GIB, 5),),)
    described = replace(vm("pc", GIB), ram_blocks=(blocks[0].block,))
    found = placements(described, VmState(), blocks, "x86_64")
    assert found == ((Placement(0, 10 * GIB, GIB),),)


def bound(*ranges: tuple[float, float], **changes: object) -> tuple[BoundBlock, ...]:
    """A block at these ranges (start, end), in GiB."""
    places = tuple((int(start * GIB), int(end * GIB)) for start, end in ranges)
    size_bytes = sum(end - start for start, end in places)
    block = replace(RamBlock("ram", size_bytes), **changes)  # type: ignore[arg-type]
    return (BoundBlock(block, places, sure=True),)


def ways(
    backend: str, blocks: tuple[BoundBlock, ...], machine: str = "x86_64"
) -> list[list[float]]:
    """Each possible placement as guest start, host start, size, … in GiB."""
    vm = VmDescription(backend, "one", 1, 0, tuple(b.block for b in blocks))
    found = placements(vm, VmState(), blocks, machine)
    return [
        [n / GIB for p in way for n in (p.guest_start, p.host_start, p.size_bytes)] for way in found
    ]


@pytest.mark.parametrize("backend", ["cloud-hypervisor", "firecracker"])
def test_ram_below_the_hole_begins_at_0(backend: str) -> None:
    assert ways(backend, bound((10, 12.5))) == [[0, 10, 2.5]]


def test_parts_around_the_hole_are_distinguished_by_their_sizes() -> None:
    assert ways("cloud-hypervisor", bound((10, 11), (20, 23))) == [[0, 20, 3, 4, 10, 1]]
    assert ways("firecracker", bound((10, 13), (20, 21))) == [[0, 10, 3, 4, 20, 1]]
    old = bound((10, 13.25), (20, 20.75))
    assert ways("firecracker", old) == [[0, 10, 3.25, 4, 20, 0.75]]
    assert ways("cloud-hypervisor", old) == []


def test_parts_in_one_mapping_have_two_possible_orders() -> None:
    assert ways("cloud-hypervisor", bound((10, 14))) == [
        [0, 10, 3, 4, 13, 1],
        [0, 11, 3, 4, 10, 1],
    ]
    assert len(ways("firecracker", bound((10, 14)))) == 4
    assert len(ways("cloud-hypervisor", bound((10, 13), (20, 23)))) == 2


def test_firecrackers_second_hole() -> None:
    (way,) = ways("firecracker", bound((1000, 1003), (2000, 2252), (3000, 3010)))
    assert way == [0, 1000, 3, 4, 2000, 252, 512, 3000, 10]


def test_no_layout_is_invented_if_none_is_published() -> None:
    assert ways("cloud-hypervisor", bound((10, 12)), "aarch64") == []
    assert ways("process", bound((10, 12))) == []
    assert ways("cloud-hypervisor", bound((10, 12), grows=True)) == []
    assert ways("cloud-hypervisor", bound((10, 12)) * 2) == []
    assert ways("cloud-hypervisor", bound()) == []
    plugged = bound((30, 32), name="hotplug", hotplug=True)
    assert ways("firecracker", (*bound((10, 12)), *plugged)) == [[0, 10, 2]]


def test_the_vmms_layout_is_used_for_ram_blocks_only() -> None:
    told = VmState(
        layout=(
            GuestRange(0, GIB, "ram", 0),
            GuestRange(4 * GIB, 2 * GIB, "ram", GIB),
            GuestRange(1 << 56, 16 << 20, "vga.vram", 0),
        )
    )
    vm = VmDescription("qemu", "one", 1, 0, ())
    assert placements(vm, told, bound((10, 12)), "x86_64") == (
        (Placement(0, 10 * GIB, GIB), Placement(4 * GIB, 11 * GIB, GIB)),
    )
    assert placements(vm, told, (), "x86_64") == ()
