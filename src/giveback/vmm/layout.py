"""Where guest addresses lie, where no monitor tells: by QEMU's machine types. Pure.

Source: pc_init1() in QEMU's hw/i386/pc_piix.c and pc_q35_init() in pc_q35.c (the hole below 4 GiB);
hw/arm/virt.c (RAM from 1 GiB). With DIMMs, virtio-mem, NUMA or a hole of one's own it is not known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.vmm.base import GuestRange

if TYPE_CHECKING:
    from giveback.vmm.base import VmDescription, VmState

_GIB = 1 << 30
_FOUR_GIB = 4 * _GIB
_HIGH_HOLE_BYTES = 1000 * _GIB
"""From about here on, RAM of an AMD guest moves above HyperTransport's hole below 1 TiB."""
NOTE = "guest addresses are assumed by the machine type: QEMU's monitor did not tell them"


def assumed(vm: VmDescription) -> tuple[GuestRange, ...]:
    """The layout of a VM with one block of RAM and a machine type that we know, else ()."""
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


def with_assumed(vm: VmDescription, state: VmState) -> VmState:
    """The state, its layout assumed where nothing told it; that is then among its problems."""
    found = () if state.layout else assumed(vm)
    if not found:
        return state
    return replace(state, layout=found, problems=(*state.problems, NOTE))


def _low_bytes(machine: str, size: int) -> int | None:
    """How much RAM lies below 4 GiB at most."""
    if machine == "q35" or machine.startswith("pc-q35-"):
        return 0x8000_0000 if size >= 0xB000_0000 else 0xB000_0000
    if machine in ("", "pc") or machine.startswith("pc-i440fx-"):
        return 0xC000_0000 if size >= 0xE000_0000 else 0xE000_0000
    return None
