"""A guest that is never idle: cold files, trapped memory, and workers at a steady part of a CPU each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from giveback_lab.vms.vm import LabVm

MIB = 1 << 20
DEADLINE_S = 400.0
# Read once and left: what an idle guest returns. 64 KiB pieces free between others: trapped.
PREPARE = """
import mmap, os, sys, time
cold, trapped, hot = (int(word) << 20 for word in sys.argv[1:])
for name, size in (("cold", cold), ("hot", hot)):
    with open(f"/work/{name}", "wb") as file:
        for _ in range(size >> 20): file.write(os.urandom(65536) * 16)
os.sync()
open("/proc/sys/vm/drop_caches", "w").write("3")
def read(name):
    with open(f"/work/{name}", "rb", buffering=0) as file:
        while file.read(1 << 20): pass
for _ in range(3): read("hot")
read("cold")
held = mmap.mmap(-1, 2 * trapped, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, len(held), 4096): held[at] = 1
for at in range(0, len(held), 128 << 10): held.madvise(mmap.MADV_DONTNEED, at, 64 << 10)
print("prepared", flush=True)
time.sleep(36000)
"""
# Requests that touch and free 8 MiB, and read a part of the hot file; then a pause by what each has used.
LOAD = """
import json, mmap, os, sys, time
percent, seconds, workers = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
end = time.monotonic() + seconds
def serve(number):
    took, hot = [], os.open("/work/hot", os.O_RDONLY)
    size = os.fstat(hot).st_size
    at = number * size // 2
    while time.monotonic() < end:
        begin, cpu = time.monotonic(), time.process_time()
        part = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        part.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(0, 8 << 20, 4096): part[page] = 1
        part.close()
        os.pread(hot, 1 << 18, at)
        at = (at + (1 << 18)) % size
        took.append(time.monotonic() - begin)
        time.sleep((time.process_time() - cpu) * (100 - percent) / percent)
    return took
def counters():
    lines = dict(line.split() for line in open("/proc/vmstat"))
    return {name: int(lines[name]) for name in ("workingset_refault_file", "pgpgin", "pgsteal_file")}
before, pipes = counters(), []
for number in range(workers):
    readable, writable = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writable, "w") as out: json.dump(serve(number), out)
        os._exit(0)
    os.close(writable)
    pipes.append(os.fdopen(readable))
took = sorted(one for pipe in pipes for one in json.load(pipe))
at = lambda part: took[min(len(took) - 1, int(len(took) * part))]
rose = {name: count - before[name] for name, count in counters().items()}
print(json.dumps({"requests": len(took), "p50_s": at(0.5), "p99_s": at(0.99), **rose}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Served:
    """What the workers have served: requests, the time that half and 99 % of them took at most, refaults."""

    requests: int
    p50_s: float
    p99_s: float
    refault_pages: int
    taken_pages: int


async def prepare(vm: LabVm, cold_mib: int, trapped_mib: int, hot_mib: int) -> None:
    """Read cold and hot files, and trap memory; returns when it is there."""
    await vm.guest.put("/tmp/prepare.py", PREPARE.encode())
    await vm.guest.put("/tmp/load.py", LOAD.encode())
    lines: list[str] = []
    words = [str(mib) for mib in (cold_mib, trapped_mib, hot_mib)]
    await vm.guest.spawn("python3", "/tmp/prepare.py", *words, on_line=lines.append)

    async def prepared() -> None:
        import asyncio

        while "prepared" not in lines:  # noqa: ASYNC110  # lines come by a callback
            await asyncio.sleep(0.2)

    await vm.watch(prepared(), DEADLINE_S, "the load's files")


async def serve(vm: LabVm, percent: int, seconds: float, workers: int = 2) -> Served:
    """Let workers serve for so long, each at a steady `percent` of a CPU."""
    words = [str(percent), str(seconds), str(workers)]
    ran = await vm.watch(
        vm.guest.exec("python3", "/tmp/load.py", *words, timeout_s=seconds + DEADLINE_S),
        seconds + DEADLINE_S,
        "the load",
    )
    assert ran.code == 0, ran.text
    said: dict[str, Any] = json.loads(ran.lines[-1])
    return Served(
        said["requests"],
        said["p50_s"],
        said["p99_s"],
        said["workingset_refault_file"],
        said["pgsteal_file"],
    )


# New cold cache all the time, 2 MiB a second: the agent always has something to take.
FEED = """
import time
device = next(line.split()[0] for line in open("/proc/mounts") if line.split()[1] == "/work")
with open(device, "rb", buffering=0) as file:
    while file.read(1 << 19): time.sleep(0.25)
time.sleep(3600)
"""


async def feed(vm: LabVm) -> int:
    """Let a process read the disk under the files, slowly and once; returns its pid."""
    return await vm.guest.spawn("python3", "-c", FEED)
