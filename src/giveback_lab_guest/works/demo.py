"""The demo's workload: a developer's day in two minutes, the same for the same seed.

Every size is a fraction of the guest's RAM. The order matters: files and processes are interleaved,
so that the memory freed at the end lies between what stays: page cache, slab and fragments.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import subprocess
import sys
import time

from giveback_kernel.units import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE_SIZES_BYTES = (1 << 10, 96 << 10)
FILES_PER_FOLDER = 64
HOT_EVERY = 8
HOT_READS = 3
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


class WorkTree:
    """A source tree of many small files under a folder; its content follows from the seed."""

    def __init__(self, folder: str, total_bytes: int, seed: int) -> None:
        choose = random.Random(seed)
        self.files: list[tuple[str, int]] = []
        left = total_bytes
        while left > 0:
            size = min(left, int(FILE_SIZES_BYTES[0] * (96 ** choose.random())))
            number = len(self.files)
            self.files.append((f"{folder}/d{number // FILES_PER_FOLDER}/f{number}.c", size))
            left -= size
        self._block = choose.randbytes(FILE_SIZES_BYTES[1])

    def write(self, part: Iterator[tuple[str, int]] | list[tuple[str, int]]) -> None:
        """Write these files."""
        for number, (path, size) in enumerate(part):
            if number % FILES_PER_FOLDER == 0 or not os.path.isdir(os.path.dirname(path)):
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb", buffering=0) as file:
                file.write(self._block[:size])

    def hot(self) -> list[tuple[str, int]]:
        """Return the working set: files that are read repeatedly and that survive the clean-up."""
        return self.files[::HOT_EVERY]


def read_files(files: list[tuple[str, int]]) -> int:
    """Read files whole; return the bytes read."""
    total = 0
    buffer = bytearray(FILE_SIZES_BYTES[1])
    for path, _ in files:
        fd = os.open(path, os.O_RDONLY)
        try:
            while True:
                count = os.readv(fd, [buffer])
                if count == 0:
                    break
                total += count
        finally:
            os.close(fd)
    return total


def hold(size_bytes: int, huge: bool) -> mmap.mmap:
    """Return anonymous memory, touched: in huge pages if the kernel provides them, or in small ones."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    block = bytes(range(256)) * (MIB // 256)
    for start in range(0, size_bytes, MIB):
        memory[start : start + MIB] = block[: min(MIB, size_bytes - start)]
    return memory


def compile_like(tree: WorkTree, count: int, choose: random.Random, out: str) -> None:
    """Run many short processes that read a few sources each and write an object."""
    os.makedirs(out, exist_ok=True)
    for number in range(count):
        sources = [path for path, _ in choose.sample(tree.files, 6)]
        with open(f"{out}/{number}.o", "wb") as file:
            subprocess.run(["cat", *sources], stdout=file, env=ENVIRONMENT, check=True)


class Day:
    """The workload's phases on a guest with `ram_bytes`; `scale` makes them larger or smaller."""

    def __init__(self, folder: str, ram_bytes: int, seed: int, scale: float) -> None:
        self._choose = random.Random(seed)
        self._folder = folder
        self._unit_bytes = int(ram_bytes * scale) // 100
        self.tree = WorkTree(f"{folder}/src", 15 * self._unit_bytes, seed)
        self._processes = int(200 * scale)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return names and actions, in their order."""
        return [
            ("checkout", lambda: self.tree.write(self.tree.files)),
            ("build", self._build),
            ("big test", lambda: self._hogs(22)),
            ("log", self._log),
            ("run again", self._run_again),
            ("two tests", lambda: self._hogs(20)),
            ("clean", self._clean),
        ]

    def _build(self) -> None:
        compile_like(self.tree, self._processes, self._choose, f"{self._folder}/obj")

    def _hogs(self, percent: int) -> None:
        """Let two hogs come and go; some small pages of one are freed between new files."""
        first = hold(percent * self._unit_bytes // 4096 * 4096, huge=True)
        second = hold(percent * self._unit_bytes // 4096 * 4096, huge=False)
        first.close()
        scratch = WorkTree(f"{self._folder}/scratch{percent}", 4 * self._unit_bytes, percent)
        piece = 256 << 10
        part = len(scratch.files) // 8 + 1
        for step in range(8):
            for start in range(step * piece, len(second) - piece, 8 * piece):
                second.madvise(mmap.MADV_DONTNEED, start, piece)
            scratch.write(scratch.files[step * part : (step + 1) * part])
        second.close()

    def _log(self) -> None:
        block = self._choose.randbytes(MIB)
        with open(f"{self._folder}/build.log", "wb", buffering=0) as file:
            file.writelines(block for _ in range(8 * self._unit_bytes // MIB))

    def _run_again(self) -> None:
        read_files(self.tree.files)
        for _ in range(HOT_READS):
            read_files(self.tree.hot())

    def _clean(self) -> None:
        hot = {path for path, _ in self.tree.hot()}
        for number, (path, _) in enumerate(self.tree.files):
            if number % 2 and path not in hot:
                os.unlink(path)
        # The files that a developer has just used stay warm to the end.
        read_files(self.tree.hot())


def work(words: list[str]) -> int:
    """Run `work FOLDER RAM_BYTES SEED SCALE`: print a JSON line at each phase's start and at the end."""
    folder, ram, seed, scale = words
    day = Day(folder, int(ram), int(seed), float(scale))
    begin = time.monotonic()
    for name, act in day.phases():
        _say(phase=name, at_s=time.monotonic())
        act()
    hot = day.tree.hot()
    with open(f"{folder}/hot.json", "w") as file:
        json.dump(hot, file)
    seconds = time.monotonic() - begin
    hot_bytes = sum(size + -size % 4096 for _, size in hot)
    _say(done=True, at_s=time.monotonic(), work_s=seconds, hot_bytes=hot_bytes)
    return 0


def reread(words: list[str]) -> int:
    """Run `reread FOLDER`: read the working set again; print how long it took."""
    with open(f"{words[0]}/hot.json") as file:
        hot = [(str(path), int(size)) for path, size in json.load(file)]
    begin = time.monotonic()
    total = read_files(hot)
    # The digest loads a library that was not used before and is not part of the working set.
    seconds = time.monotonic() - begin
    digest = hashlib.sha256(str(total).encode()).hexdigest()[:8]
    _say(reread_s=seconds, bytes=total, check=digest)
    return 0


def _say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
