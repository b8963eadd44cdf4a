"""Guest addresses by machine type, where no monitor tells them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.vmm.base import GuestRange, RamBlock, VmDescription, VmState
from giveback.vmm.layout import NOTE, assumed, with_assumed

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
def test_all_of_ram_is_somewhere_and_nothing_twice(machine: str, mib: int) -> None:
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
def test_what_is_not_known_is_not_assumed(machine: str) -> None:
    assert assumed(vm(machine, GIB)) == ()
    assert with_assumed(vm(machine, GIB), VmState()) == VmState()
    two = replace(vm("pc", 2 * GIB), ram_blocks=(RamBlock("a", GIB), RamBlock("b", GIB)))
    assert assumed(two) == ()
    assert assumed(vm("pc", 2000 * GIB)) == ()


def test_what_qemu_told_is_kept() -> None:
    told = VmState(layout=(GuestRange(0, 5, "x", 0),))
    assert with_assumed(vm("pc", GIB), told) is told
    assert with_assumed(vm("pc", GIB), VmState()).problems == (NOTE,)
