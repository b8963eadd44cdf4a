"""Place guest addresses in the VMM's memory, by the VMM's own answer or its published layout. Pure.

Source: pc_init1() in QEMU's hw/i386/pc_piix.c and pc_q35_init() in pc_q35.c (the hole below 4 GiB);
hw/arm/virt.c (RAM from 1 GiB). With DIMMs, virtio-mem, NUMA or a configured hole it is not known.
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
"""From about this size on, RAM of an AMD guest moves above HyperTransport's hole below 1 TiB."""


_HOLES = {
    "cloud-hypervisor": (((3 * _GIB, _FOUR_GIB),),),
    "firecracker": (
        ((3 * _GIB, _FOUR_GIB), (256 * _GIB, 512 * _GIB)),
        ((0xD000_0000, _FOUR_GIB),),
    ),
}
"""The holes in RAM on x86-64, as (start, end), for each layout that a VMM has had."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A range of guest addresses and its start in the VMM's address space."""

    guest_start: int
    host_start: int
    size_bytes: int


def placements(
    vm: VmDescription, state: VmState, bound: Sequence[BoundBlock], machine: str
) -> tuple[tuple[Placement, ...], ...]:
    """Return every possible placement of guest RAM in the ranges found; a single one if it is known.

    `machine` is the host's architecture (`x86_64`). The result is empty if the VMM did not send its
    layout and no published one fits. Published layouts are known only for RAM in one block, to which
    no memory may be added at run time.
    """
    layout = state.layout or assumed(vm)
    if layout:
        found = tuple(_by_layout(layout, bound))
        return (found,) if found else ()
    base = [block for block in bound if not block.block.hotplug]
    if machine != "x86_64" or len(base) != 1 or base[0].block.grows:
        return ()
    every: dict[tuple[Placement, ...], None] = {}
    for holes in _HOLES.get(vm.backend, ()):
        # Each part is a mapping of its own: the kernel places it above or below the one before.
        for parts in permutations(_parts(base[0].block.size_bytes, holes)):
            laid = _laid(parts, base[0].ranges)
            if laid:
                every[laid] = None
    return tuple(every)


def _by_layout(layout: Sequence[GuestRange], bound: Sequence[BoundBlock]) -> Iterator[Placement]:
    """Yield the layout's ranges in RAM blocks only: a graphics card's memory has guest addresses, too."""
    starts = {b.block.name: b.ranges[0] for b in bound if len(b.ranges) == 1}
    for place in layout:
        if place.block in starts:
            start, end = starts[place.block]
            host = start + place.block_offset
            size_bytes = min(place.size_bytes, end - host)
            if size_bytes > 0:
                yield Placement(place.guest_start, host, size_bytes)


def _parts(size_bytes: int, holes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of RAM from address 0 around the holes, as (guest address, bytes)."""
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
    """Place the parts in the ranges one after the other; return () if a part crosses a range's end."""
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
    """Return the layout of a QEMU with one block of RAM and a known machine type, else ()."""
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
    """Return the largest RAM size below 4 GiB of a machine type; None if the type is unknown."""
    if machine == "q35" or machine.startswith("pc-q35-"):
        return 0x8000_0000 if size >= 0xB000_0000 else 0xB000_0000
    if machine in ("", "pc") or machine.startswith("pc-i440fx-"):
        return 0xC000_0000 if size >= 0xE000_0000 else 0xE000_0000
    return None
