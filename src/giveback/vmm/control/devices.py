"""What takes memory from a guest and gives it back: the balloon and virtio-mem, of any VMM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

TIMEOUT_S = 2.0
"""For all that is asked or told at once."""
STATISTICS_PERIOD_S = 5


@dataclass(frozen=True, slots=True)
class BalloonSize:
    """`kept_bytes` is what the guest has beside the balloon, `most_bytes` all that it could have."""

    kept_bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class VirtioMem:
    """A virtio-mem device: a guest is to plug `requested_bytes` of it and has plugged so much."""

    id: str
    requested_bytes: int
    plugged_bytes: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Devices:
    """What a VM has. `statistics_period_s` is 0 where the guest is asked for none, None unknown."""

    balloon: BalloonSize | None = None
    virtio_mem: tuple[VirtioMem, ...] = ()
    statistics_period_s: int | None = None


class Control(Protocol):
    """One VM's devices. Every method raises VmError, and takes TIMEOUT_S at most."""

    @property
    def address(self) -> str:
        """What `control_at` takes."""
        ...

    async def devices(self) -> Devices: ...

    async def set_balloon(self, kept_bytes: int) -> None:
        """The guest is to keep so much; its driver gets there by and by, or never."""
        ...

    async def set_virtio_mem(self, device_id: str, requested_bytes: int) -> None:
        """The guest is to plug so much, a multiple of the device's block."""
        ...

    async def set_statistics_period(self, period_s: int) -> None:
        """How often the guest is asked for its numbers; 0: never."""
        ...
