"""A developer's day, as in the demo: files, programs and processes interleaved."""

from __future__ import annotations

from giveback_lab_guest.works import demo as work
from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class BenchDay(Job):
    """The demo's workload, which several VMs of one host run one after the other or at once."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        super().__init__(folder, ram_bytes, seed, cpus)
        self.day = work.Day(folder, ram_bytes, seed, 1.0)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the demo's phases."""
        return self.day.phases()

    def hot_bytes(self) -> int:
        """Return the page cache bytes of the hot files."""
        return sum(size + -size % 4096 for _, size in self.day.tree.hot())

    def prepare_reread(self) -> Callable[[], int]:
        """Return a reader of the whole hot files."""
        files = self.day.tree.hot()
        work.read_files(files[:1])
        return lambda: work.read_files(files)
