"""Linux 7.3 reports without its delay during a pass: memory is back sooner, and the delay is restored."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field

import steady_load
from matrix import MATRIX

from giveback_agent.release.report_delay import PATH
from giveback_lab.images.image import GUEST_AGENT, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import start_agent
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

MIB = 1 << 20
DEADLINE_S = 240.0
COLD_MIB, TRAPPED_MIB, HOT_MIB = 160, 100, 16
# Prints each value that the delay takes.
WATCH = f"""
import time
last = ""
while True:
    now = open("{PATH}").read().strip()
    if now != last: print(now, flush=True)
    last = now
    time.sleep(0.02)
"""
# root may write to what it owns, but not to a mount that is read-only.
FIXED = f"mount --bind {PATH} {PATH} && mount -o remount,ro,bind {PATH}"


@dataclass
class Course:
    """A pass as the host saw it: seconds since the cache was reclaimed, and resident bytes."""

    samples: list[tuple[float, int]] = field(default_factory=list)
    delays: list[str] = field(default_factory=list)

    def seconds_until(self, part: float) -> float:
        start, end = self.samples[0][1], self.samples[-1][1]
        enough = start - part * (start - end)
        return next(at_s for at_s, resident in self.samples if resident <= enough)


async def a_pass(vm: LabVm) -> Course:
    """A manual pass after the same preparation."""
    await steady_load.prepare(vm, COLD_MIB, TRAPPED_MIB, HOT_MIB)
    course, lines = Course(), list[str]()
    watch = await vm.guest.spawn("python3", "-c", WATCH, on_line=course.delays.append)
    await vm.guest.spawn("python3", GUEST_AGENT, "release", "--deep", on_line=lines.append)
    until_s, begun_s = time.monotonic() + DEADLINE_S, 0.0
    while not any(line.startswith("giveback: ") for line in lines):
        assert time.monotonic() < until_s, lines
        # The steps before do not depend on the delay, and take an unknown time.
        if any(line.startswith("drain") for line in lines) and not begun_s:
            begun_s = time.monotonic()
        if begun_s:
            course.samples.append((time.monotonic() - begun_s, vm.resident_bytes()))
        await asyncio.sleep(0.1)
    await vm.guest.kill(watch, signal.SIGKILL)
    await vm.guest.exec("sh", "-c", "pkill -f prepare.py || busybox pkill -f prepare.py")
    print("\n".join(lines), course.delays, [round(course.seconds_until(p), 1) for p in (0.5, 0.9)])
    return course


async def both() -> tuple[Course, Course, list[str]]:
    kernel = await asyncio.to_thread(kernel_from_packages, "7.3")
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    spec = VmSpec("report-delay", 1024 * MIB, 1, "tcg", work_disk_bytes=1 << 30)
    async with LabVm(spec, image, emulator) as vm:
        fast = await a_pass(vm)
        assert (await vm.guest.exec("sh", "-c", FIXED)).code == 0
        slow = await a_pass(vm)
        assert (await vm.guest.exec("sh", "-c", f"umount {PATH}")).code == 0
        await steady_load.prepare(vm, COLD_MIB, TRAPPED_MIB, HOT_MIB)
        lines: list[str] = []
        pid = await start_agent(vm, lines.append)
        until_s = time.monotonic() + DEADLINE_S
        while not any("trigger" in line for line in lines):
            assert time.monotonic() < until_s, lines
            await asyncio.sleep(0.05)
        await vm.guest.kill(pid, signal.SIGKILL)
        read = ("cat", PATH)
        found = [(await vm.guest.exec(*read)).text.strip()]
        await vm.guest.exec("python3", GUEST_AGENT, "repair")
        return fast, slow, [*found, (await vm.guest.exec(*read)).text.strip()]


@MATRIX
def test_a_pass_reports_without_the_kernels_delay_and_restores_it() -> None:
    fast, slow, killed = asyncio.run(both())
    assert fast.delays == ["2000", "100", "2000"]
    assert slow.delays == ["2000"]
    assert fast.seconds_until(0.9) < slow.seconds_until(0.9)
    assert killed == ["100", "2000"]
