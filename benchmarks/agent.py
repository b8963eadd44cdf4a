"""Measure what the agent returns, how soon, and what it costs: real VMs, measured on the host.

    .venv/bin/python benchmarks/agent.py returns [--kernels 6.12,6.1] [--mem 2G,4G]
    .venv/bin/python benchmarks/agent.py pairs [--pairs 5]
    .venv/bin/python benchmarks/agent.py editor
    .venv/bin/python benchmarks/agent.py quiet [--minutes 10]

- `returns`: residue 90 s after the workload's end; seconds of idleness until half and 90 % of the
  returnable memory was back.
- `pairs`: the workload and the re-read of its hot set after an idle minute, with and without the agent,
  in two VMs side by side; ratio of medians.
- `editor`: a guest that is never idle against one that is.
- `quiet`: the service's own CPU and memory while nothing happens.

Under emulation absolute times mean nothing; ratios and bytes do. Do not use the machine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from giveback.arguments import size_of
from giveback_kernel import meminfo, vmstat
from giveback_kernel.units import MIB
from giveback_lab.images.image import GUEST_LAB, Image, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import start_agent
from giveback_lab.vms.emulator import Emulator, find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from giveback_lab.vms.guest_link import Event

SAMPLE_S = 1.0
AFTER_WORK_S = 95.0
IDLE_S = 60.0
EDITOR_S = 180.0
# 7 % of one CPU in short bursts, and a file that grows: an editor with a language server.
EDITOR = """
import time
log = open('/work/editor.log', 'ab', buffering=0)
while True:
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.035:
        pass
    log.write(bytes(20_000))
    time.sleep(0.465)
"""


@dataclass(slots=True)
class Guest:
    """A lab VM under measurement."""

    vm: LabVm
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    memory: meminfo.MemInfo | None = None
    agent_pid: int | None = None
    hot_bytes: int = 0
    work_s: float = 0.0

    def take(self, event: Event) -> None:
        memory = meminfo.parse(event["files"]["/proc/meminfo"].encode())
        resident = self.vm.resident_bytes()
        residue = resident - (self.vm.spec.ram_bytes - memory.mem_free_bytes)
        self.memory = memory
        self.samples.append((time.monotonic(), resident, residue))

    async def begin(self, agent: bool) -> None:
        self.vm.guest.on_sample = self.take
        await self.vm.guest.request("sample", period_s=SAMPLE_S)
        if agent:
            self.agent_pid = await start_agent(self.vm)

    async def work(self) -> None:
        ram = str(self.vm.spec.ram_bytes)
        done = await self.vm.guest.exec(
            "python3", GUEST_LAB, "work", "/work", ram, "1", "1.0", timeout_s=900
        )
        said = json.loads(done.lines[-1])
        self.work_s, self.hot_bytes = said["work_s"], said["hot_bytes"]

    def needed_bytes(self) -> int:
        memory = self.memory
        assert memory is not None  # sampling began before the work
        used = self.vm.spec.ram_bytes - memory.mem_free_bytes
        return used - memory.file_bytes - memory.s_reclaimable_bytes + self.hot_bytes

    async def reread(self) -> tuple[float, int]:
        """Return the seconds of the re-read, and the bytes that came from disk."""
        before = await self._read_bytes()
        done = await self.vm.guest.exec("python3", GUEST_LAB, "reread", "/work")
        return json.loads(done.lines[-1])["reread_s"], await self._read_bytes() - before

    async def _read_bytes(self) -> int:
        text = (await self.vm.guest.exec("cat", "/proc/vmstat")).text
        return 1024 * (vmstat.parse(text.encode() + b"\n").pgpgin or 0)


async def with_guest(
    lab: tuple[Image, Emulator], spec: VmSpec, measure: Callable[[Guest], Awaitable[None]]
) -> None:
    image, emulator = lab
    async with LabVm(spec, image, emulator) as vm:
        await measure(Guest(vm))


def prepare(series: str) -> tuple[Image, Emulator]:
    kernel = kernel_from_packages(series)
    return build_image(kernel), find_emulator(kernel.release)


def spec_of(name: str, mem_bytes: int) -> VmSpec:
    return VmSpec(name, mem_bytes, 1, "tcg", work_disk_bytes=2 * mem_bytes)


async def returns(args: argparse.Namespace) -> None:
    print("kernel  RAM     at the end  needed  residue at 90 s  half back  90 % back")
    for series in args.kernels.split(","):
        for mem in args.mem.split(","):
            spec = spec_of("returns", size_of(mem, "--mem"))

            async def measure(guest: Guest, series: str = series, mem: str = mem) -> None:
                await guest.begin(agent=True)
                await guest.work()
                ended, start = time.monotonic(), guest.samples[-1][1]
                # The first sample after the workload's end: the one before still has the workload's
                # memory in it.
                await asyncio.sleep(1.5 * SAMPLE_S)
                needed = guest.needed_bytes()
                await asyncio.sleep(AFTER_WORK_S - 1.5 * SAMPLE_S)
                marks = [seconds_until(guest, ended, start, needed, part) for part in (0.5, 0.9)]
                residue = min(guest.samples, key=lambda s: abs(s[0] - ended - 90))[2]
                print(
                    f"{series:7} {mem:6} {start // MIB:7} MiB {needed // MIB:4} MiB "
                    f"{residue / MIB:10.0f} MiB {marks[0]:>10} {marks[1]:>10}",
                    flush=True,
                )

            await with_guest(prepare(series), spec, measure)


def seconds_until(guest: Guest, ended: float, start: int, needed: int, part: float) -> str:
    enough = start - part * (start - needed)
    for at, resident, _ in guest.samples:
        if at >= ended and resident <= enough:
            return f"{at - ended:.0f} s"
    return "never"


async def pairs(args: argparse.Namespace) -> None:
    lab = prepare(args.kernels.split(",")[0])
    spec = size_of(args.mem.split(",")[0], "--mem")
    results: dict[bool, list[tuple[float, float, int]]] = {True: [], False: []}
    for number in range(args.pairs):

        async def measure(guest: Guest) -> None:
            agent = guest.vm.spec.name == "agent"
            await guest.begin(agent)
            await guest.work()
            await asyncio.sleep(IDLE_S)
            seconds, disk_bytes = await guest.reread()
            results[agent].append((guest.work_s, seconds, disk_bytes))

        names = ("agent", "none") if number % 2 else ("none", "agent")
        await asyncio.gather(*(with_guest(lab, spec_of(n, spec), measure) for n in names))
        last = {name: results[name == "agent"][-1] for name in names}
        print(f"pair {number + 1}: " + ", ".join(f"{n} {w:.1f} s, re-read {r:.3f} s, {d} B from disk"
              for n, (w, r, d) in sorted(last.items())), flush=True)  # fmt: skip
    for what, index in (("work", 0), ("re-read", 1)):
        with_agent = [r[index] for r in results[True]]
        without = [r[index] for r in results[False]]
        ratio = statistics.median(with_agent) / statistics.median(without)
        each = [a / b for a, b in zip(with_agent, without, strict=True)]
        print(f"{what}: ratio of medians {ratio:.3f}, pairs {min(each):.3f} to {max(each):.3f}")


async def editor(args: argparse.Namespace) -> None:
    lab = prepare(args.kernels.split(",")[0])
    mem = size_of(args.mem.split(",")[0], "--mem")
    returned: dict[str, int] = {}

    async def measure(guest: Guest) -> None:
        await guest.begin(agent=True)
        await guest.work()
        start = guest.samples[-1][1]
        if guest.vm.spec.name == "editor":
            await guest.vm.guest.spawn("python3", "-c", EDITOR)
        await asyncio.sleep(EDITOR_S)
        returned[guest.vm.spec.name] = start - guest.samples[-1][1]

    await asyncio.gather(*(with_guest(lab, spec_of(n, mem), measure) for n in ("idle", "editor")))
    for name, size in sorted(returned.items()):
        print(f"{name}: {size // MIB} MiB back within {EDITOR_S:.0f} s")
    print(f"never idle / idle: {returned['editor'] / returned['idle']:.2f}")


async def quiet(args: argparse.Namespace) -> None:
    lab = prepare(args.kernels.split(",")[0])

    async def measure(guest: Guest) -> None:
        await guest.begin(agent=True)
        await asyncio.sleep(60)
        before = await cpu_ticks(guest)
        await asyncio.sleep(args.minutes * 60)
        share = (await cpu_ticks(guest) - before) / 100 / (args.minutes * 60)
        rows = (await guest.vm.guest.exec("cat", f"/proc/{guest.agent_pid}/smaps_rollup")).lines
        memory = [" ".join(r.split()) for r in rows if r.startswith(("Pss:", "Private_Dirty:"))]
        print(f"{share:.3%} of one CPU over {args.minutes} minutes; {', '.join(memory)}")

    await with_guest(lab, spec_of("quiet", size_of("1G", "--mem")), measure)


async def cpu_ticks(guest: Guest) -> int:
    """Return utime + stime of the service and of its ended workers."""
    stat = (await guest.vm.guest.exec("cat", f"/proc/{guest.agent_pid}/stat")).text
    return sum(int(word) for word in stat.rpartition(")")[2].split()[11:15])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("returns", "pairs", "editor", "quiet"))
    parser.add_argument("--kernels", default="6.12")
    parser.add_argument("--mem", default="2G")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    measures = {"returns": returns, "pairs": pairs, "editor": editor, "quiet": quiet}
    asyncio.run(measures[args.what](args))


if __name__ == "__main__":
    main()
