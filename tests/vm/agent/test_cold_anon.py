"""Memory that a process touched once goes back to the host through swap; memory in use stays."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest
from matrix import MATRIX

from giveback_lab.images.image import GUEST_AGENT, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

pytestmark = [pytest.mark.timeout(1200), MATRIX]
DEADLINE_S = 600
MIB = 1 << 20
IDLE_MIB, HOT_MIB, SWAP_MIB = 300, 100, 512
# An emulated second is short: several rounds over the hot memory must fit.
COLD_AFTER_S = 20

PROGRAM = """
import ctypes, json, mmap, os, signal, struct, sys, time
sys.path.insert(0, AGENT)
from giveback_agent.release.cache import cold_anon
from giveback_kernel import memcg_usage
from giveback_kernel.vmstat import read_vmstat

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
libc = ctypes.CDLL(None, use_errno=True)
C = "/sys/fs/cgroup"

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

def make_swap(path):
    # The header of mkswap: version 1, the last page, no bad ones.
    size = SWAP_MIB << 20
    if path.startswith("/dev/"):
        write("/sys/block/zram0/disksize", str(size))
    else:
        with open(path, "wb") as file:
            for _ in range(SWAP_MIB):
                file.write(bytes(1 << 20))
        os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(struct.pack("<III", 1, size // 4096 - 1, 0))
        file.seek(4096 - 10)
        file.write(b"SWAPSPACE2")
    if libc.swapon(path.encode(), 0):
        raise OSError(ctypes.get_errno(), path)

def in_cgroup(name, run):
    os.makedirs(f"{C}/{name}", exist_ok=True)
    ready, started = os.pipe()
    pid = os.fork()
    if pid == 0:
        write(f"{C}/{name}/cgroup.procs", "0")
        run(started)
        os._exit(0)
    os.read(ready, 1)
    return pid

def idle(started):
    held = mmap.mmap(-1, IDLE_MIB << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A quarter of each page cannot be compressed.
    noise = os.urandom(1 << 20)
    for page in range(IDLE_MIB << 8):
        at = (page * 1024) % (1 << 20)
        held[page << 12 : (page << 12) + 1024] = noise[at : at + 1024]
        held[(page << 12) + 1024] = page & 255
    os.write(started, b"x")
    time.sleep(100000)

def hot(started):
    held = mmap.mmap(-1, HOT_MIB << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    first = True
    while True:
        ctypes.memset(address, 7, HOT_MIB << 20)
        if first:
            os.write(started, b"x")
            first = False
        time.sleep(0.5)

write(f"{C}/cgroup.subtree_control", "+memory")
make_swap(SWAP)
pids = [in_cgroup("idle", idle), in_cgroup("hot", hot)]

def state():
    anon = {n: memcg_usage.read_usage("/", f"{C}/{n}").anon_bytes >> 20 for n in ("idle", "hot")}
    counters = read_vmstat("/")
    return {**anon, "in": counters.pswpin, "out": counters.pswpout}

try:
    print("ready", json.dumps(state()), flush=True)
    signal.sigwait([signal.SIGUSR1])
    results = []
    for _ in range(CALLS):
        # Time without a touch is what is measured.
        time.sleep(COLD_AFTER_S * 1.1)
        worker = os.fork()
        if worker == 0:
            result = cold_anon.reclaim_cold_anon("/", 1 << 40, COLD_AFTER_S, EXCLUDE)
            gained_bytes = max(0, result.swapped_bytes - result.zram_bytes)
            print("call", result, gained_bytes >> 20, json.dumps(state()), flush=True)
            os._exit(0)
        os.waitpid(worker, 0)
    time.sleep(COLD_AFTER_S)
    print("after", json.dumps(state()), flush=True)
    signal.sigwait([signal.SIGUSR1])
finally:
    for pid in pids:
        os.kill(pid, 9)
"""


async def in_guest(swap: str, exclude: tuple[str, ...]) -> dict[str, Any]:
    kernel = await asyncio.to_thread(kernel_from_packages, "6.12")
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    names = "AGENT, SWAP, EXCLUDE, IDLE_MIB, HOT_MIB, SWAP_MIB, COLD_AFTER_S, CALLS"
    values = (GUEST_AGENT, swap, exclude, IDLE_MIB, HOT_MIB, SWAP_MIB, COLD_AFTER_S, 4)
    spec = VmSpec("cold-anon", 768 * MIB, 2, "tcg", reporting=True, work_disk_bytes=1 << 30)
    lines: list[str] = []
    async with LabVm(spec, image, emulator) as vm:
        await vm.guest.put("/tmp/anon.py", f"{names} = {values!r}\n{PROGRAM}".encode())
        pid = await vm.guest.spawn("python3", "/tmp/anon.py", on_line=lines.append)

        async def line(word: str) -> dict[str, Any]:
            while not (found := [o for o in lines if o.startswith(word)]):  # noqa: ASYNC110  # no event for it
                await asyncio.sleep(0.5)
            said: dict[str, Any] = json.loads(found[0].partition(" ")[2])
            return said

        async def both() -> dict[str, Any]:
            before = await line("ready")
            resident = vm.resident_bytes()
            await vm.guest.kill(pid, signal.SIGUSR1)
            after = await line("after")
            least = vm.resident_bytes()
            # Reporting continues by itself, with a part of the free lists every two seconds.
            for _ in range(60):
                await asyncio.sleep(1)
                least = min(least, vm.resident_bytes())
            return {"before": before, "after": after, "back": (resident - least) // MIB}

        try:
            return await vm.watch(both(), DEADLINE_S, "cold anonymous memory")
        finally:
            print("\n".join(lines))


@pytest.mark.parametrize(("swap", "back_mib"), [("/work/swap", 200), ("/dev/zram0", 120)])
def test_what_was_touched_once_comes_back_and_what_is_in_use_stays(
    swap: str, back_mib: int
) -> None:
    found = asyncio.run(in_guest(swap, ()))
    print(found)
    before, after = found["before"], found["after"]
    assert before["idle"] >= IDLE_MIB
    assert after["idle"] <= IDLE_MIB * 0.1
    assert after["hot"] >= before["hot"] * 0.95
    swapped_in_mib = (after["in"] - before["in"]) * 4096 // MIB
    assert swapped_in_mib <= 0.02 * IDLE_MIB + 1
    assert found["back"] >= back_mib


def test_an_excluded_cgroup_keeps_its_memory() -> None:
    found = asyncio.run(in_guest("/work/swap", ("idle",)))
    assert found["after"]["idle"] >= found["before"]["idle"] * 0.99
