"""The interface of a workload of the benchmark."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Job:
    """One workload in a folder of a guest with `ram_bytes` and `cpus`; the seed decides its content."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        self.folder, self.ram_bytes, self.seed, self.cpus = folder, ram_bytes, seed, cpus

    def percent(self, share: float) -> int:
        """Return this percentage of the RAM in bytes."""
        return int(self.ram_bytes * share / 100)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return names and actions of the workload, in their order."""
        raise NotImplementedError

    def hot_bytes(self) -> int:
        """Return the page cache bytes of the hot set."""
        return 0

    def prepare_reread(self) -> Callable[[], int]:
        """Return a function that reads the hot set once and returns its bytes."""
        raise NotImplementedError

    def again(self) -> None:
        """Start again what has ended."""
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """Return the figures of what keeps running: requests, span_s, p50_s, p99_s."""
        raise NotImplementedError

    def warm(self) -> None:
        """Be the process that keeps the hot set."""
        raise NotImplementedError

    def clean(self) -> None:
        """Remove the workload's files."""
        raise NotImplementedError

    def linger(self) -> None:
        """Run without end."""
        raise NotImplementedError
