"""Measure what the agent costs in a real guest with many cgroups, including the kernel's part.

    .venv/bin/python benchmarks/scale_guest.py [--cgroups 100,1000,4000] [--cpus 8] [--quiet 120]

Ten of the cgroups have read a file of 16 MiB once. For each number of cgroups it prints the length
of lru_gen and the CPU time to read it: the kernel's alone, and with the agent's. Then CPU time,
evictions and MiB of a pass's cold cache. Then the CPU time of reading all lists, for kernels where
lru_gen may not be read. Last the fraction of a CPU that the service then takes in `--quiet`
seconds, and its Pss. Under emulation CPU time is 10 to 50 times a real machine's: only its growth
counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from giveback_kernel.units import MIB
from giveback_lab.images.image import GUEST_AGENT, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import start_agent
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

DEADLINE_S = 900
# In the guest, with no other load.
PROGRAM_PATH = "/work/scale.py"
SETTLE_S = 60.0
PROGRAM = """
import json, os, sys, time
sys.path.insert(0, AGENT)
from giveback_agent.release.cache import cold_cache
from giveback_kernel import lru_gen, lru_gen_scan
C = "/sys/fs/cgroup"

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

def used(work):
    read, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(out, json.dumps(work()).encode())
        os._exit(0)
    os.close(out)
    said = os.read(read, 4096)
    _, _, usage = os.wait4(pid, 0)
    os.close(read)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss, json.loads(said)

def read_alone():
    size = 0
    with open(lru_gen.PATH, "rb", buffering=0) as file:
        while piece := file.read(65536):
            size += len(piece)
    return size

def scanned():
    read = lru_gen_scan.pieces(cpu_limit_s=600)
    found = lru_gen_scan.scan(read, lambda one: 1, 1000)
    return found.count

def folder_of(number):
    return f"{C}/many-{number // 100}.slice/c{number}.scope"

write(f"{C}/cgroup.subtree_control", "+memory")
made = sum(name.startswith("c") for folder, names, _ in os.walk(C) for name in names if ".scope" in name)
for number in range(made, COUNT):
    folder = folder_of(number)
    if number % 100 == 0:
        os.makedirs(folder.rpartition("/")[0])
        write(f"{folder.rpartition('/')[0]}/cgroup.subtree_control", "+memory")
    os.mkdir(folder)
write("/proc/sys/vm/drop_caches", "3")
for one in range(10):
    path = f"/work/cold{one}"
    if not os.path.exists(path):
        with open(path, "wb") as file: file.write(bytes(16 << 20))
        os.sync()
        write("/proc/sys/vm/drop_caches", "3")
for one in range(10):
    pid = os.fork()
    if pid == 0:
        write(f"{folder_of(one * COUNT // 10)}/cgroup.procs", "0")
        with open(f"/work/cold{one}", "rb", buffering=0) as file:
            while file.read(65536): pass
        os._exit(0)
    os.waitpid(pid, 0)
alone_s, _, size = used(read_alone)
scan_s, _, count = used(scanned)
lists_s, _, _ = used(lambda: cold_cache.reclaim_cold("/", cold_cache.LISTS, 1).steps)
def a_pass():
    result = cold_cache.reclaim_cold("/", cold_cache.probe("/"), 1 << 40, "/work")
    return [result.steps, result.taken_bytes >> 20, result.untrained_bytes >> 20]
pass_s, peak_kib, said = used(a_pass)
print(json.dumps([size, count, alone_s, scan_s, pass_s, *said, lists_s, peak_kib]), flush=True)
"""
COLUMNS = ("cgroups", "lru_gen", "read", "scan", "pass", "lists", "peak", "quiet", "Pss")


async def measure(args: argparse.Namespace) -> None:
    kernel = kernel_from_packages(args.kernel)
    image, emulator = build_image(kernel), find_emulator(kernel.release)
    ram_bytes = args.ram_mib * MIB
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    spec = VmSpec("scale", ram_bytes, args.cpus, "tcg", work_disk_bytes=1 << 30)
    async with LabVm(spec, image, emulator) as vm:
        for count in [int(word) for word in args.cgroups.split(",")]:
            program = f"AGENT, COUNT = {GUEST_AGENT!r}, {count}\n{PROGRAM}"
            await vm.guest.put(PROGRAM_PATH, program.encode())
            ran = await vm.guest.exec("python3", PROGRAM_PATH, timeout_s=DEADLINE_S)
            if ran.code:
                raise SystemExit(ran.text)
            said = json.loads(ran.lines[-1])
            size, _, alone_s, scan_s, pass_s, steps, taken, untrained, lists_s, peak_kib = said
            quiet = await quiet_cost(vm, args.quiet)
            print(
                f"| {count} | {size / 1e6:.2f} MB | {alone_s:.2f} s | {scan_s:.2f} s | {pass_s:.2f} s, "
                f"{steps} steps, {taken} MiB, {untrained} left | {lists_s:.2f} s | {peak_kib >> 10} MiB "
                f"| {quiet} |",
                flush=True,
            )


async def quiet_cost(vm: LabVm, seconds: float) -> str:
    """Return the service's own CPU time once the guest is quiet, and its memory."""
    pid = await start_agent(vm)
    await asyncio.sleep(SETTLE_S)
    before = await ticks(vm, pid)
    await asyncio.sleep(seconds)
    share = (await ticks(vm, pid) - before) / 100 / seconds
    rows = (await vm.guest.exec("cat", f"/proc/{pid}/smaps_rollup")).lines
    pss_kib = next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    await vm.guest.exec("kill", str(pid))
    return f"{share:.2%} | {pss_kib / 1024:.1f} MiB"


async def ticks(vm: LabVm, pid: int) -> int:
    """Return utime + stime of the service and of its ended workers."""
    stat = (await vm.guest.exec("cat", f"/proc/{pid}/stat")).text
    return sum(int(word) for word in stat.rpartition(")")[2].split()[11:15])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cgroups", default="100,1000,4000")
    parser.add_argument("--cpus", type=int, default=8)
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--ram-mib", type=int, default=2048)
    parser.add_argument("--quiet", type=float, default=120.0)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
