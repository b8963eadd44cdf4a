"""A guest that is never idle returns nearly as much as an idle one, and its workload is not slowed.

`GIVEBACK_PAIRS=10 pytest -s tests/vm/agent/test_busy_guest.py -k pairs` measures interleaved pairs, with the
agent running and stopped in turn, and prints the ratios with their 95 % interval.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
from typing import Any

import pytest
import steady_load
from matrix import MATRIX
from steady_load import Served

from giveback_lab.images.image import build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import start_agent
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

MIB = 1 << 20
RAM_BYTES = 1024 * MIB
COLD_MIB, TRAPPED_MIB, HOT_MIB = 200, 120, 32
PERCENT = int(os.environ.get("GIVEBACK_BUSY_PERCENT", "50"))
PAIRS = int(os.environ.get("GIVEBACK_PAIRS", "0"))
IDLE_S, BUSY_S, SEGMENT_S = 60.0, 300.0, 15.0
WANTED_PART = 0.7
# Each cold step causes this many refaults itself, in the lists that it trains (lru_gen_training.py).
TRAINING_PAGES = 1024
# Two-sided, 95 %, by the number of pairs (degrees of freedom: one less).
STUDENT_T = {4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262, 12: 2.201, 15: 2.145, 20: 2.093}


async def lab_vm(name: str) -> LabVm:
    kernel = await asyncio.to_thread(kernel_from_packages, "6.12")
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    return LabVm(VmSpec(name, RAM_BYTES, 2, "tcg", work_disk_bytes=1 << 30), image, emulator)


async def returned(
    percent: int, seconds: float, enough_bytes: int
) -> tuple[int, Served | None, Any]:
    """Return the bytes back on the host after `seconds`, or as soon as there are `enough_bytes`."""
    async with await lab_vm(f"busy-{percent}") as vm:
        await steady_load.prepare(vm, COLD_MIB, TRAPPED_MIB, HOT_MIB)
        work = asyncio.create_task(steady_load.serve(vm, percent, seconds)) if percent else None
        before = vm.resident_bytes()
        await start_agent(vm)
        deadline_s = asyncio.get_running_loop().time() + seconds
        most = 0
        while asyncio.get_running_loop().time() < deadline_s and most < enough_bytes:
            await asyncio.sleep(1.0)
            most = max(most, before - vm.resident_bytes())
        read = ("cat", "/run/giveback/status.json")
        # The workload runs for a while, and a pass follows it.
        passes = json.loads((await vm.guest.exec(*read)).text)["passes"]
        served = await work if work is not None else None
        said = json.loads((await vm.guest.exec(*read)).text)
        return most, served, {**said, "passes_meanwhile": passes}


@MATRIX
def test_a_guest_at_a_steady_half_of_its_cpus_returns_most_of_what_an_idle_one_does() -> None:
    idle_bytes, _, _ = asyncio.run(returned(0, IDLE_S, 1 << 50))
    wanted = int(idle_bytes * WANTED_PART)
    busy_bytes, served, said = asyncio.run(returned(PERCENT, BUSY_S, wanted))
    print(f"idle {idle_bytes // MIB} MiB, at {PERCENT} % {busy_bytes // MIB} MiB, {served}")
    print(said["busy"], f"{said['passes_meanwhile']} passes meanwhile")
    assert idle_bytes >= 200 * MIB
    assert busy_bytes >= wanted
    assert said["busy"]["steps"] >= 3
    assert served is not None
    own = TRAINING_PAGES * said["slack_steps"]
    assert served.refault_pages <= own + served.taken_pages * 0.02


@pytest.mark.skipif(PAIRS == 0, reason="a measurement: set GIVEBACK_PAIRS=10")
def test_pairs_of_the_agent_at_work_and_stopped() -> None:
    pairs = asyncio.run(measured_pairs())
    for what in ("requests", "p50_s", "p99_s"):
        ratios = [getattr(on, what) / getattr(off, what) for on, off in pairs]
        mean = statistics.mean(ratios)
        half = statistics.stdev(ratios) / len(ratios) ** 0.5 * STUDENT_T.get(len(ratios), 2.0)
        undecided = " (1 is within)" if abs(mean - 1) <= half else ""
        print(f"{what}: with / without {mean:.3f} +- {half:.3f}{undecided}")


async def measured_pairs() -> list[tuple[Served, Served]]:
    pairs = []
    async with await lab_vm("busy-pairs") as vm:
        await steady_load.prepare(vm, COLD_MIB, TRAPPED_MIB, HOT_MIB)
        feeder = await steady_load.feed(vm)
        pid = await start_agent(vm)
        await steady_load.serve(vm, PERCENT, SEGMENT_S)
        for number in range(PAIRS):
            served: dict[bool, Served] = {}
            for on in (True, False) if number % 2 else (False, True):
                await vm.guest.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)
                served[on] = await steady_load.serve(vm, PERCENT, SEGMENT_S)
            pairs.append((served[True], served[False]))
            print(f"pair {number + 1}: with {served[True]}, without {served[False]}", flush=True)
        await vm.guest.kill(pid, signal.SIGCONT)
        print((await vm.guest.exec("cat", "/run/giveback/status.json")).text)
        await vm.guest.kill(feeder, signal.SIGKILL)
    return pairs
