"""Files: unpack an archive, read it, delete half of it. Editor: the same, smaller, then without end."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
import time

from giveback_lab_guest.works.demo import ENVIRONMENT, read_files
from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_FILE_BYTES = 8 << 10
SPAN = 64
FILES_PER_FOLDER = 64
HOT_EVERY = 4
HOT_READS = 3
BURST_S = 0.035
PERIOD_S = 0.5
LOG_BYTES = 32 << 10


class FileTree:
    """Files of 8 to 512 KiB, like those of a package of sources and objects."""

    def __init__(self, folder: str, total_bytes: int, seed: int) -> None:
        choose = random.Random(seed)
        self.folder = folder
        self.files: list[tuple[str, int]] = []
        left = total_bytes
        while left > 0:
            size = min(left, int(LEAST_FILE_BYTES * SPAN ** choose.random()))
            number = len(self.files)
            self.files.append((f"{folder}/d{number // FILES_PER_FOLDER}/f{number}", size))
            left -= size
        self._block = choose.randbytes(LEAST_FILE_BYTES * SPAN)

    def hot(self) -> list[tuple[str, int]]:
        """Return the files that are read repeatedly and survive the deletion."""
        return self.files[::HOT_EVERY]

    def hot_bytes(self) -> int:
        """Return the page cache bytes of the hot files."""
        return sum(size + -size % 4096 for _, size in self.hot())

    def write(self, part: list[tuple[str, int]]) -> None:
        """Write these files to their places."""
        for path, size in part:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb", buffering=0) as file:
                file.write(self._block[:size])

    def pack(self, path: str) -> None:
        """Write an archive of all files, without writing the files."""
        with tarfile.open(path, "w") as archive:
            for name, size in self.files:
                member = tarfile.TarInfo(name.lstrip("/"))
                member.size = size
                archive.addfile(member, _Block(self._block[:size]))

    def unpack(self, path: str) -> None:
        """Unpack the archive to the files' places."""
        subprocess.run(["tar", "-xf", path, "-C", "/"], env=ENVIRONMENT, check=True)

    def delete_half(self) -> None:
        """Delete every other file, except the hot ones."""
        hot = {path for path, _ in self.hot()}
        for number, (path, _) in enumerate(self.files):
            if number % 2 == 1 and path not in hot:
                os.unlink(path)


class _Block:
    """As much of a file as tarfile reads, without a copy of the block for each member."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        end = len(self._data) if count < 0 else self._at + count
        part = self._data[self._at : end]
        self._at += len(part)
        return part


class Files(Job):
    """A package is unpacked and read, and half of it is deleted; its archive stays."""

    share = 24.0

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        super().__init__(folder, ram_bytes, seed, cpus)
        self.tree = FileTree(f"{folder}/tree", self.percent(self.share), seed)
        self.archive = f"{folder}/package.tar"

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the phases: pack, unpack, read, delete."""
        return [
            ("pack", lambda: self.tree.pack(self.archive)),
            ("unpack", lambda: self.tree.unpack(self.archive)),
            ("read", self._read),
            ("delete", self._delete),
        ]

    def _read(self) -> None:
        read_files(self.tree.files)
        for _ in range(HOT_READS):
            read_files(self.tree.hot())

    def _delete(self) -> None:
        self.tree.delete_half()
        read_files(self.tree.hot())

    def hot_bytes(self) -> int:
        """Return the page cache bytes of the hot files."""
        return self.tree.hot_bytes()

    def prepare_reread(self) -> Callable[[], int]:
        """Return a reader of the whole hot files."""
        files = self.tree.hot()
        probe = f"{self.folder}/probe"
        with open(probe, "wb") as file:
            file.write(bytes(4096))
        read_files([(probe, 4096)])
        return lambda: read_files(files)


class Editor(Files):
    """A burst of the same, and then an editor: never idle, with a log and an index that grow."""

    share = 16.0

    def linger(self) -> None:
        """Use about 7 % of a CPU in bursts; each burst appends to a log and reads a file."""
        cold = self._kept()
        with open(f"{self.folder}/editor.log", "ab", buffering=0) as log:
            while True:
                begin = time.perf_counter()
                log.write(bytes(LOG_BYTES))
                read_files([next(cold)])
                while time.perf_counter() - begin < BURST_S:
                    pass
                time.sleep(PERIOD_S - BURST_S)

    def _kept(self) -> Iterator[tuple[str, int]]:
        choose = random.Random(self.seed + 1)
        kept = [one for one in self.tree.files if os.path.exists(one[0])]
        while True:
            yield choose.choice(kept)
