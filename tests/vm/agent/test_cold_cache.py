"""Cold cache is reclaimed and the working set stays, counted page by page in a real guest."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from guest_program import PAGE_CACHE

from giveback_lab.images.image import GUEST_AGENT, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

DEADLINE_S = 240
MIB = 1 << 20
COLD_MIB = 48
HOT_MIB = 12

# Runs in the guest, in a cgroup of its own or in the root's. The hot files are read twice: the least
# that makes a working set, and what the multi-gen LRU does not protect of its own accord.
PROGRAM = """
import json, os, sys
sys.path.insert(0, AGENT)
from giveback_agent.release.cache import cold_cache
from giveback_kernel.vmstat import read_vmstat

def cached(paths):
    return sum(map(cached_pages, paths))

def read(paths):
    for path in paths:
        read_whole(path)

if GROUP:
    write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
    os.mkdir("/sys/fs/cgroup/lab")
    write("/sys/fs/cgroup/lab/cgroup.procs", "0")
paths = [f"/work/f{n}" for n in range(COLD_MIB + HOT_MIB)]
hot, cold = paths[::5], [path for n, path in enumerate(paths) if n % 5]
for path in paths:
    with open(path, "wb") as file:
        file.write(os.urandom(1 << 20))
os.sync()
write("/proc/sys/vm/drop_caches", "3")
if GROUP:  # who reclaims is another than who reads
    work = os.fork()
    if work == 0:
        read(paths); read(hot); os._exit(0)
    os.waitpid(work, 0)
    write("/sys/fs/cgroup/cgroup.procs", "0")
else:
    read(paths); read(hot)
method = METHOD or cold_cache.probe("/")
rounds = []
for _ in range(3):
    before = {"hot": cached(hot), "cold": cached(cold)}
    pid = os.fork()
    if pid == 0:
        result = cold_cache.reclaim_cold("/", method, 1 << 40, "/work")
        print(result, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    after = {"hot": cached(hot), "cold": cached(cold)}
    refaults = read_vmstat("/").workingset_refault_file
    read(hot)
    refaults = read_vmstat("/").workingset_refault_file - refaults
    rounds.append({"before": before, "after": after, "refaults": refaults})
    read(cold)  # the next work: new files of which nothing is read again
print(json.dumps({"method": method, "rounds": rounds}), flush=True)
"""


async def in_guest(series: str, name: str, program: str) -> dict[str, Any]:
    kernel = await asyncio.to_thread(kernel_from_packages, series)
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    spec = VmSpec(name, 512 * MIB, 1, "tcg")
    async with LabVm(spec, image, emulator) as vm:
        await vm.guest.put("/tmp/cold.py", program.encode())
        ran = await vm.watch(
            vm.guest.exec("python3", "/tmp/cold.py", timeout_s=DEADLINE_S), DEADLINE_S, "cold cache"
        )
        assert ran.code == 0, ran.text
        said: dict[str, Any] = json.loads(ran.lines[-1])
        return said | {"text": ran.text}


@pytest.mark.parametrize(
    ("series", "method", "group"),
    [
        ("6.12", "generations", False),
        ("6.12", "generations", True),
        # New cache goes to another generation there, and MADV_PAGEOUT would not train it.
        ("7.3", "generations", True),
        ("6.12", "lists", True),
        ("6.1", "lists", False),
        ("6.1", "lists", True),
    ],
)
def test_cold_cache_goes_and_the_working_set_stays(series: str, method: str, group: bool) -> None:
    probed = series == "6.12" and method == "lists"
    program = (
        f"AGENT, GROUP, METHOD = {GUEST_AGENT!r}, {group}, {method if probed else ''!r}\n"
        f"COLD_MIB, HOT_MIB = {COLD_MIB}, {HOT_MIB}\n{PAGE_CACHE}{PROGRAM}"
    )
    said = asyncio.run(in_guest(series, f"cold-{series}-{method}", program))
    print(said["text"])  # the figures of docs/cold-cache.md: pytest -s
    assert said["method"] == method
    hot_pages = HOT_MIB * MIB // 4096
    # Lists keep as much inactive as there is active; generations keep 2 MiB to stay open.
    kept_pages = (4 if method == "generations" else HOT_MIB + 12) * MIB // 4096
    for one in said["rounds"]:
        assert one["before"]["hot"] == hot_pages, said["text"]
        assert one["refaults"] <= hot_pages // 100, said["text"]
        assert one["after"]["hot"] >= hot_pages * 99 // 100, said["text"]
    assert said["rounds"][0]["after"]["cold"] <= kept_pages, said["text"]


CLOSED_PROGRAM = """
import json, os, sys
sys.path.insert(0, AGENT)
from giveback_agent.release.cache import cold_cache
from giveback_kernel import lru_gen
from giveback_kernel.meminfo import read_meminfo

def write(name, mib):
    with open(f"/work/{name}", "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))

def inactive():
    return read_meminfo("/").inactive_file_bytes >> 20

def reclaim(**more):
    pid = os.fork()
    if pid == 0:
        cold_cache.reclaim_cold("/", "generations", 1 << 40, "/work", **more)
        os._exit(0)
    os.waitpid(pid, 0)

# Nothing is written back while this runs.
for knob in ("dirty_writeback_centisecs", "dirty_background_ratio", "dirty_ratio"):
    with open(f"/proc/sys/vm/{knob}", "w") as file:
        file.write("0" if knob.endswith("centisecs") else "90")
said = {}
write("dirty", 64)
said["before"] = inactive()
reclaim()
said["left_dirty"] = inactive()
# What the agent does not do any more: dirty pages are moved, and the generation is closed.
(one,) = [one for one in lru_gen.read_lru_gen("/").lists if one.memcg_path == "/"]
up_to = one.generations[-3].number
pages = sum(g.file_pages for g in one.generations if g.number <= up_to)
lru_gen.write_request("/", lru_gen.eviction_request(one, up_to, 0, pages))
os.sync()
write("new", 64)
os.sync()
said["closed"] = inactive()
cache = read_meminfo("/").file_bytes >> 20
reclaim()
said["taken_closed"] = cache - (read_meminfo("/").file_bytes >> 20)
reclaim(stale_after_s=0.0)
said["taken_reopened"] = cache - (read_meminfo("/").file_bytes >> 20)
print(json.dumps(said), flush=True)
"""


def test_dirty_cache_closes_no_generation_and_a_closed_one_is_opened_again() -> None:
    program = f"AGENT = {GUEST_AGENT!r}\n{CLOSED_PROGRAM}"
    said = asyncio.run(in_guest("6.12", "cold-closed", program))
    assert said["before"] > 48
    assert said["left_dirty"] >= said["before"] - 4
    assert said["closed"] < 16, "nothing was shown"
    assert said["taken_closed"] < 16
    assert said["taken_reopened"] > 64
