"""Proxmox VE's auto-ballooning, by its published rule. Pure; our re-implementation.

Every 10 s: the goal is 80 % of the host's memory less the used memory; within 10 MiB of it nothing
is done. To grow, VMs that lack free memory come first; to shrink, VMs that have it. If that changes
nothing, all VMs take part. Memory above the minimums is divided by `shares`; a VM changes by 100
MiB at most.

Source: proxmox/pve-manager 14a22df, PVE/AutoBalloon.pm and auto_ballooning() in
PVE/Service/pvestatd.pm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_kernel.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PERIOD_S = 10.0
STATS_PERIOD_S = 2
TARGET_PERCENT = 80
DEAD_BAND_BYTES = 10 * MIB
MOST_CHANGE_BYTES = 100 * MIB
SHARES = 1000
# A VM with more free memory than this fraction of its minimum can spare some.
ROOMY_PERCENT = 25


@dataclass(frozen=True, slots=True)
class BalloonVm:
    """A VM as pvestatd sees it: `size_bytes` is its current size with the balloon.

    `free_bytes` is the guest's own count, None if it does not send it.
    """

    name: str
    size_bytes: int
    least_bytes: int
    most_bytes: int
    free_bytes: int | None
    shares: int = SHARES

    @property
    def is_roomy(self) -> bool:
        """Whether the VM can spare memory."""
        free = self.free_bytes or 0
        return free * 100 > self.least_bytes * ROOMY_PERCENT and self.size_bytes >= self.least_bytes


def goal_bytes(host_bytes: int, used_bytes: int) -> int:
    """Return the bytes that the host may give, or, negative, needs back."""
    return host_bytes * TARGET_PERCENT // 100 - used_bytes


def decide(vms: Sequence[BalloonVm], goal: int) -> dict[str, int]:
    """Return the new sizes of the VMs that change, in bytes."""
    if abs(goal) <= DEAD_BAND_BYTES:
        return {}
    first = [vm for vm in vms if vm.is_roomy == (goal < 0)]
    sizes, rest = _spread({}, first, goal, goal > 0)
    if rest >= goal if goal > 0 else rest <= goal:
        sizes, rest = _spread(sizes, vms, rest, rest > 0)
    now = {vm.name: vm.size_bytes for vm in vms}
    return {name: size for name, size in sizes.items() if size != now[name]}


def _spread(
    planned: Mapping[str, int], vms: Sequence[BalloonVm], amount: int, growing: bool
) -> tuple[dict[str, int], int]:
    """Distribute `amount` over the VMs by shares, repeatedly while limits leave some; return the rest."""
    sizes = dict(planned)
    open_vms = list(vms)
    rest = amount
    while rest and open_vms:
        above = sum(sizes.get(vm.name, vm.size_bytes) - vm.least_bytes for vm in open_vms) + rest
        shares = sum(vm.shares for vm in open_vms)
        changed = 0
        moved = False
        still_open = []
        for vm in open_vms:
            wanted = vm.least_bytes + above * vm.shares // shares
            wanted = min(max(wanted, vm.least_bytes), vm.most_bytes)
            size = _step(vm.size_bytes, wanted, growing)
            if size is None:
                continue
            still_open.append(vm)
            change = size - sizes.get(vm.name, vm.size_bytes)
            sizes[vm.name] = size
            changed += change
            moved = moved or change != 0
        open_vms = still_open
        rest -= changed
        if not moved:
            break
    return sizes, rest


def _step(size: int, wanted: int, growing: bool) -> int | None:
    """Return the size after one step towards the wanted size, or None if this VM must not change."""
    if growing and wanted > size:
        return min(wanted, size + MOST_CHANGE_BYTES)
    if wanted < size:
        return max(wanted, size - MOST_CHANGE_BYTES)
    return None
