"""The devices that take memory from a guest and give it back: balloon and virtio-mem, of any VMM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

TIMEOUT_S = 2.0
"""Time limit of one operation with all its requests."""
STATISTICS_PERIOD_S = 5


@dataclass(frozen=True, slots=True)
class BalloonSize:
    """The size of a balloon: the guest has `kept_bytes` outside it, of at most `most_bytes`."""

    kept_bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class VirtioMem:
    """A virtio-mem device: the guest has plugged `plugged_bytes` of `requested_bytes`, in blocks."""

    id: str
    requested_bytes: int
    plugged_bytes: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Devices:
    """The memory devices of a VM. `statistics_period_s` is 0 if polling is off, None if unknown."""

    balloon: BalloonSize | None = None
    virtio_mem: tuple[VirtioMem, ...] = ()
    statistics_period_s: int | None = None


class Control(Protocol):
    """The control of one VM's devices. Every method may raise VmError, and takes at most TIMEOUT_S."""

    @property
    def address(self) -> str:
        """The address for `control_at`."""
        ...

    async def devices(self) -> Devices:
        """Return the present state of the devices."""
        ...

    async def set_balloon(self, kept_bytes: int) -> None:
        """Set what the guest keeps outside the balloon; its driver follows gradually, or never."""
        ...

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """Set how much the guest plugs: a multiple of the device's block size."""
        ...

    async def set_statistics_period(self, period_s: int) -> None:
        """Set the interval at which the guest is asked for statistics; 0 turns polling off."""
        ...
