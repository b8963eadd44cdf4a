"""Build: a real parallel compile of a source package; several copies if there is more RAM."""

from __future__ import annotations

import os
import subprocess
import tarfile

from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = "/usr/src/upstream"
PACKAGE = "libzstd"
FOLDER = "lib"
TARGET = "libzstd.a"
# The flags of a debug build; intermediate files stay beside the objects.
CFLAGS = "-O0 -g3 -save-temps=obj"
# A compiler process takes 20 to 120 MiB: with this many jobs the peak is about half the RAM.
RAM_PER_JOB_BYTES = 48 << 20
# One copy takes two minutes on two emulated CPUs; with more RAM several are built at once.
RAM_PER_COPY_BYTES = 2 << 30
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/tmp"}


class Build(Job):
    """Unpack, and `make -j` in all copies at once."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        super().__init__(folder, ram_bytes, seed, cpus)
        count = max(1, ram_bytes // RAM_PER_COPY_BYTES)
        self.copies = [f"{folder}/copy{number}" for number in range(count)]
        self.jobs = max(cpus, ram_bytes // RAM_PER_JOB_BYTES // count)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the phases: unpack, make."""
        return [("unpack", self._unpack), ("make", lambda: self._make(TARGET))]

    def _unpack(self) -> None:
        for copy in self.copies:
            with tarfile.open(f"{SOURCES}/{PACKAGE}") as archive:
                # apt has checked its signature; Pythons before 3.11.4 have no filter.
                archive.extraction_filter = getattr(tarfile, "data_filter", None)
                archive.extractall(copy)  # noqa: S202

    def _make(self, target: str) -> None:
        makes = [self._start(copy, target) for copy in self.copies]
        for process in makes:
            said, _ = process.communicate()
            if process.returncode != 0:
                raise OSError(f"make {target}: {said[-300:].decode('utf-8', 'replace')}")

    def _start(self, copy: str, target: str) -> subprocess.Popen[bytes]:
        (inner,) = os.listdir(copy)
        words = ["make", "-s", f"-j{self.jobs}", "-C", f"{copy}/{inner}/{FOLDER}", target]
        return subprocess.Popen(
            [*words, "CC=gcc", f"CFLAGS={CFLAGS}"],
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def clean(self) -> None:
        """Run `make clean` in every copy."""
        self._make("clean")
