"""Service: a server that never idles, at a steady fraction of its CPUs, with bursts and I/O.

Requests arrive by a schedule, however long the last one took (open loop): the latency of a late
answer counts from when it was due. Each request touches and frees memory and reads a hot file; some
write a log and read a cold one.
"""

from __future__ import annotations

import array
import mmap
import operator
import os
import random
import time
import zlib

from giveback_kernel.units import MIB
from giveback_lab_guest.works.demo import hold, read_files
from giveback_lab_guest.works.files import FileTree
from giveback_lab_guest.works.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FILES_PERCENT = 18.0
PEAK_PERCENT = 25.0
SCRATCH_PERCENT = 3.0
PIECE_BYTES = 256 << 10
PIECES = 8
HOT_READS = 3
# The memory that a request touches and frees: 8 MiB of 2 GiB.
REQUEST_PERCENT = 0.4
CALIBRATED_REQUESTS = 15
# This fraction of each period is random; it averages to 0.
JITTER = 0.5
BURST_EVERY_S = 30.0
BURST_REQUESTS = 8
IO_EVERY = 20
LOG_BYTES = 128 << 10
SAVE_EVERY = 10


class Service(Job):
    """Files are written and a peak passes; then requests without end, in one process per CPU."""

    busy_percent = 50

    def __init__(self, folder: str, ram_bytes: int, seed: int, cpus: int) -> None:
        super().__init__(folder, ram_bytes, seed, cpus)
        self.tree = FileTree(f"{folder}/tree", self.percent(FILES_PERCENT), seed)
        self._block = random.Random(seed).randbytes(MIB)

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the phases: a deployment, and a peak that leaves fragments."""
        return [("files", self._files), ("peak", self._peak), ("hot", self._read_hot)]

    def _files(self) -> None:
        archive = f"{self.folder}/package.tar"
        self.tree.pack(archive)
        self.tree.unpack(archive)
        read_files(self.tree.files)

    def _peak(self) -> None:
        memory = hold(self.percent(PEAK_PERCENT) // MIB * MIB, huge=False)
        scratch = FileTree(f"{self.folder}/scratch", self.percent(SCRATCH_PERCENT), self.seed + 1)
        part = len(scratch.files) // PIECES + 1
        for step in range(PIECES):
            for start in range(step * PIECE_BYTES, len(memory) - PIECE_BYTES, PIECES * PIECE_BYTES):
                memory.madvise(mmap.MADV_DONTNEED, start, PIECE_BYTES)
            scratch.write(scratch.files[step * part : (step + 1) * part])
        memory.close()

    def _read_hot(self) -> None:
        for _ in range(HOT_READS):
            read_files(self.tree.hot())

    def request(self, choose: random.Random, number: int) -> None:
        """Serve one request: memory that comes and goes, a hot file, sometimes the disk."""
        size = self.percent(REQUEST_PERCENT) // mmap.PAGESIZE * mmap.PAGESIZE
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for start in range(0, size, MIB):
            memory[start : start + MIB] = self._block[: min(MIB, size - start)]
        zlib.crc32(memory)
        memory.close()
        read_files([choose.choice(self.tree.hot())])
        if number % IO_EVERY == 0:
            with open(f"{self.folder}/service.log", "ab", buffering=0) as log:
                log.write(self._block[:LOG_BYTES])
            read_files([choose.choice(self.tree.files)])

    def linger(self) -> None:
        """Serve without end, in one process per CPU."""
        for worker in range(1, self.cpus):
            if os.fork() == 0:
                self.serve(worker)
        self.serve(0)

    def serve(self, worker: int, until_s: float = float("inf")) -> None:
        """Serve requests when they are due; write each one's due time and end to a file."""
        choose = random.Random(self.seed + worker)
        period_s = self._request_cpu_s(choose) * 100.0 / self.busy_percent
        begin_s = due_s = time.monotonic()
        burst_s, number, burst = begin_s + BURST_EVERY_S, 0, 0
        times = array.array("d")
        with open(f"{self.folder}/requests-{worker}.bin", "wb", buffering=0) as file:
            while due_s < until_s:
                time.sleep(max(0.0, due_s - time.monotonic()))
                self.request(choose, number)
                times.extend((due_s, time.monotonic()))
                number += 1
                if number % SAVE_EVERY == 0:
                    file.write(times.tobytes())
                    del times[:]
                if due_s >= burst_s:
                    burst_s, burst = burst_s + BURST_EVERY_S, BURST_REQUESTS
                if burst:
                    # All requests of a burst are due at once.
                    burst -= 1
                else:
                    due_s += period_s * (1.0 + JITTER * (2.0 * choose.random() - 1.0))
            file.write(times.tobytes())

    def _request_cpu_s(self, choose: random.Random) -> float:
        """Return the CPU seconds of a usual request, without bursts and I/O."""
        took = []
        for _ in range(CALIBRATED_REQUESTS):
            before_s = time.process_time()
            self.request(choose, 1)
            took.append(time.process_time() - before_s)
        return max(0.001, sorted(took)[len(took) // 2])

    def report(self) -> dict[str, float]:
        """Return what all processes have served so far: requests, their time span, latencies."""
        times = array.array("d")
        for worker in range(self.cpus):
            with open(f"{self.folder}/requests-{worker}.bin", "rb") as file:
                data = file.read()
            times.frombytes(data[: len(data) // 16 * 16])
        return figures(times[::2], times[1::2])

    def hot_bytes(self) -> int:
        """Return the page cache bytes of the hot files."""
        return self.tree.hot_bytes()

    def prepare_reread(self) -> Callable[[], int]:
        """Return a reader of the whole hot files."""
        files = self.tree.hot()
        return lambda: read_files(files)


class Service30(Service):
    """The service at a steady 30 % of the CPUs."""

    busy_percent = 30


class Service50(Service):
    """The service at a steady 50 % of the CPUs."""


class Service70(Service):
    """The service at a steady 70 % of the CPUs."""

    busy_percent = 70


def figures(due_s: array.array[float], end_s: array.array[float]) -> dict[str, float]:
    """Return requests, the seconds they span, and the latencies' median and 99th percentile."""
    if not due_s:
        return {"requests": 0, "span_s": 0.0, "p50_s": 0.0, "p99_s": 0.0}
    latencies = sorted(map(operator.sub, end_s, due_s))
    return {
        "requests": len(latencies),
        "span_s": max(end_s) - min(due_s),
        "p50_s": latencies[len(latencies) // 2],
        "p99_s": latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)],
    }
