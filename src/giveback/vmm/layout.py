"""Where guest addresses lie in the VMM's memory: as it tells, or as its layout is published. Pure.

Source: pc_init1() in QEMU's hw/i386/pc_piix.c and pc_q35_init() in pc_q35.c (the hole below 4 GiB);
hw/arm/virt.c (RAM from 1 GiB). With DIMMs, virtio-mem, NUMA or a hole of one's own it is not known.
Cloud Hypervisor: MEM_32BIT_RESERVED_START in arch/src/x86_64/layout.rs, create_ram_region() in
vmm/src/memory_manager.rs. Firecracker: arch_memory_regions() in src/vmm/src/arch/x86_64/mod.rs,
MMIO32_MEM_SIZE and MMIO64_MEM_START in layout.rs (before PCI: MEM_32BIT_GAP_SIZE of 768 MiB and no
second hole), create() in src/vmm/src/vstate/memory.rs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from giveback.vmm.base import GuestRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from giveback.vmm.base import VmDescription, VmState
    from giveback.vmm.mapping import BoundBlock

_GIB = 1 << 30
_FOUR_GIB = 4 * _GIB
_HIGH_HOLE_BYTES = 1000 * _GIB
"""From about here on, RAM of an AMD guest moves above HyperTransport's hole below 1 TiB."""


_HOLES = {
    "cloud-hypervisor": (((3 * _GIB, _FOUR_GIB),),),
    "firecracker": (
        ((3 * _GIB, _FOUR_GIB), (256 * _GIB, 512 * _GIB)),
        ((0xD000_0000, _FOUR_GIB),),
    ),
}
"""By VMM, for each layout that it has had on x86-64: the holes in RAM, (start, end)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A stretch of guest addresses, and where it lies in the VMM's address space."""

    guest_start: int
    host_start: int
    size_bytes: int


def placements(
    vm: VmDescription, state: VmState, bound: Sequence[BoundBlock], machine: str
) -> tuple[tuple[Placement, ...], ...]:
    """Every way in which guest RAM may lie in what was found of it: one where it is known.

    `machine` is the host's (`x86_64`). Empty where the VMM told no layout, and none that its machine
    type has or that it publishes fits: RAM of one block, and none that may be plugged in later.
    """
    layout = state.layout or assumed(vm)
    if layout:
        found = tuple(_told(layout, bound))
        return (found,) if found else ()
    base = [block for block in bound if not block.block.hotplug]
    if machine != "x86_64" or len(base) != 1 or base[0].block.grows:
        return ()
    every: dict[tuple[Placement, ...], None] = {}
    for holes in _HOLES.get(vm.backend, ()):
        # Each part is mapped by itself: the kernel puts it above or below the one before.
        for parts in permutations(_parts(base[0].block.size_bytes, holes)):
            laid = _laid(parts, base[0].ranges)
            if laid:
                every[laid] = None
    return tuple(every)


def _told(layout: Sequence[GuestRange], bound: Sequence[BoundBlock]) -> Iterator[Placement]:
    """As the VMM says, of the blocks that are RAM: a graphics card's memory has addresses, too."""
    starts = {b.block.name: b.ranges[0] for b in bound if len(b.ranges) == 1}
    for place in layout:
        if place.block in starts:
            start, end = starts[place.block]
            host = start + place.block_offset
            size_bytes = min(place.size_bytes, end - host)
            if size_bytes > 0:
                yield Placement(place.guest_start, host, size_bytes)


def _parts(size_bytes: int, holes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """RAM from address 0 on, around the holes: (guest address, bytes)."""
    parts = []
    at, left = 0, size_bytes
    for start, end in holes:
        if left > start - at:
            parts.append((at, start - at))
            left -= start - at
            at = end
    return [*parts, (at, left)]


def _laid(
    parts: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]
) -> tuple[Placement, ...]:
    """The parts put into the ranges one after the other; () where one goes over a range's end."""
    found = []
    left = list(parts)
    for start, end in ranges:
        at = start
        while at < end:
            if not left or at + left[0][1] > end:
                return ()
            guest_start, size_bytes = left.pop(0)
            found.append(Placement(guest_start, at, size_bytes))
            at += size_bytes
    return () if left else tuple(sorted(found, key=lambda place: place.guest_start))


def assumed(vm: VmDescription) -> tuple[GuestRange, ...]:
    """The layout of a QEMU with one block of RAM and a machine type that we know, else ()."""
    if vm.backend not in ("qemu", "libvirt"):
        return ()
    if len(vm.ram_blocks) != 1 or vm.ram_blocks[0].size_bytes != vm.ram_bytes:
        return ()
    machine, *options = vm.machine.split(",")
    if any(option.startswith("max-ram-below-4g") for option in options):
        return ()
    block, size = vm.ram_blocks[0].name, vm.ram_bytes
    if machine == "virt" or machine.startswith("virt-"):
        return (GuestRange(_GIB, size, block, 0),)
    low = _low_bytes(machine, size)
    if low is None or size > _HIGH_HOLE_BYTES:
        return ()
    if size <= low:
        return (GuestRange(0, size, block, 0),)
    return (GuestRange(0, low, block, 0), GuestRange(_FOUR_GIB, size - low, block, low))


def _low_bytes(machine: str, size: int) -> int | None:
    """How much RAM lies below 4 GiB at most."""
    if machine == "q35" or machine.startswith("pc-q35-"):
        return 0x8000_0000 if size >= 0xB000_0000 else 0xB000_0000
    if machine in ("", "pc") or machine.startswith("pc-i440fx-"):
        return 0xC000_0000 if size >= 0xE000_0000 else 0xE000_0000
    return None
