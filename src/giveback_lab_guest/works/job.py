"""What a work of the benchmark is made of."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Job:
    """One work in a folder of a guest with `ram_bytes` and `cpus`; the seed gives its content."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        self.folder, self.ram_bytes, self.seed, self.cpus = folder, ram_bytes, seed, cpus

    def percent(self, share: float) -> int:
        """Bytes: so many percent of the RAM."""
        return int(self.ram_bytes * share / 100)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Names and actions of the work, in their order."""
        raise NotImplementedError

    def hot_bytes(self) -> int:
        """Page cache of the hot set."""
        return 0

    def prepare_reread(self) -> Callable[[], int]:
        """Return what reads the hot set once and returns its bytes."""
        raise NotImplementedError

    def again(self) -> None:
        """Start once more what has ended."""
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """What that which goes on has done: requests, span_s, p50_s, p99_s."""
        raise NotImplementedError

    def warm(self) -> None:
        """Be the process that keeps the hot set."""
        raise NotImplementedError

    def clean(self) -> None:
        """Remove what the work has made."""
        raise NotImplementedError

    def linger(self) -> None:
        """Go on for ever."""
        raise NotImplementedError
