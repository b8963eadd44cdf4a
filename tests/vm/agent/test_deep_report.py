"""Deep report in a real guest: the returned memory is measured on the host, and a kill is repaired."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from giveback_agent.release import percpu_lists
from giveback_lab.images.image import GUEST_AGENT, GUEST_LAB, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

MIB = 1 << 20
RAM_BYTES = 1 << 30
# Memory that reporting cannot reach: the kernel's per-zone threshold, and rounding in a cycle.
RESIDUE_BYTES = 16 * MIB
DRAIN_DEADLINE_S = 120

PROLOGUE = f"""
import json, os, signal, sys
sys.path.insert(0, {GUEST_AGENT!r})
from giveback_agent.release import report_order, trigger_reporting, percpu_lists
from giveback_kernel.page_reporting import read_order
from giveback_kernel.meminfo import read_meminfo
def say(**what):
    print(json.dumps(what), flush=True)
"""
MEMORY = "m = read_meminfo(); say(total=m.mem_total_bytes, free=m.mem_free_bytes)"
LOWER = (
    "report_order.lower('/', 0); n = trigger_reporting.trigger('/'); "
    "say(done=n.done, bytes=n.block_bytes)"
)
WAIT = "report_order.lower('/', 0); trigger_reporting.trigger('/'); say(pid=os.getpid()); signal.pause()"
REPAIR = "r = report_order.repair('/'); say(found=r.found, order=read_order('/'))"
KILLED_AT_LINE = Path(__file__).parents[2] / "unit/helpers" / "agent_killed_at_line.py"
# The unit test's own program, against the kernel's own parameter.
KILLS = (
    KILLED_AT_LINE.read_text()
    + """
def until_it_ends(work, looked_at, repair):
    number, seen, left = 0, set(), 0
    killed = True
    while killed and number < 2000:
        number += 1
        killed = killed_at_line(number, work)
        seen.add(looked_at())
        repair("/")
        left += looked_at() != ORIGINAL or os.path.exists(STATE)
    say(attempts=number, seen=sorted(seen), wrong=left, ended=not killed)
"""
)
KILLS_OF_THE_ORDER = (
    KILLS
    + """
STATE, ORIGINAL = report_order.STATE_PATH, 9
def lower_and_restore():
    report_order.lower("/", 5)
    report_order.restore("/")
until_it_ends(lower_and_restore, lambda: read_order("/"), report_order.repair)
"""
)
KILLS_OF_THE_LISTS = (
    KILLS
    + """
STATE, ORIGINAL = percpu_lists.STATE_PATH, 0
until_it_ends(lambda: percpu_lists.drain("/"), lambda: percpu_lists._read("/"), percpu_lists.repair)
"""
)
# 48 MiB free in blocks of 64 KiB: the kernel keeps most of it on its lists permanently.
LISTS = """
import mmap, os, time
from giveback_kernel.zoneinfo import pcp_pages, read_zoneinfo
held = mmap.mmap(-1, 96 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, len(held), 4096): held[at] = 1
for at in range(0, len(held), 128 << 10): held.madvise(mmap.MADV_DONTNEED, at, 64 << 10)
def free():
    return read_meminfo("/").mem_free_bytes >> 20
before, free_before = pcp_pages(read_zoneinfo("/")) >> 8, free()
began = time.monotonic()
refused = percpu_lists.drain("/")
took = time.monotonic() - began
say(before=before, after=pcp_pages(read_zoneinfo("/")) >> 8, freed=free() - free_before, took=took,
    refused=refused, fraction=percpu_lists._read("/"))
"""


async def run(vm: LabVm, program: str) -> dict[str, Any]:
    ran = await vm.guest.exec("python3", "-c", PROLOGUE + program)
    assert ran.code == 0, ran.text
    said: dict[str, Any] = json.loads(ran.lines[-1])
    return said


async def residue_bytes(vm: LabVm) -> int:
    memory = await run(vm, MEMORY)
    reserved = RAM_BYTES - memory["total"]
    non_free: int = memory["total"] - memory["free"]
    residue: int = vm.resident_bytes() - non_free - reserved
    return residue


async def wait_residue_below(vm: LabVm, most_bytes: int) -> int:
    deadline = time.monotonic() + DRAIN_DEADLINE_S
    while True:
        left = await residue_bytes(vm)
        if left <= most_bytes or time.monotonic() > deadline:
            return left
        await asyncio.sleep(1)


async def fragment(vm: LabVm) -> None:
    worked = await vm.guest.exec("python3", GUEST_LAB, "work", "/work", str(RAM_BYTES), "1", "0.6")
    assert worked.code == 0, worked.text
    dropped = await vm.guest.exec("sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches")
    assert dropped.code == 0, dropped.text


async def scenario(kernel: str) -> None:
    files = kernel_from_packages(kernel)
    image = build_image(files)
    spec = VmSpec("deep-report", RAM_BYTES, 1, "tcg")
    async with LabVm(spec, image, find_emulator(files.release)) as vm:
        await fragment(vm)
        before = await residue_bytes(vm)
        triggered = await run(vm, LOWER)
        assert triggered == {"done": True, "bytes": 64 << 10}
        after = await wait_residue_below(vm, RESIDUE_BYTES)
        assert after <= RESIDUE_BYTES < before, (before // MIB, after // MIB)
        assert await run(vm, REPAIR) == {"found": True, "order": 9}

        pid = await vm.guest.spawn("python3", "-c", PROLOGUE + WAIT)
        await wait_order(vm, 0)
        await vm.guest.kill(pid, signal.SIGKILL)
        assert await run(vm, "say(order=read_order('/'))") == {"order": 0}
        assert await run(vm, REPAIR) == {"found": True, "order": 9}
        assert await run(vm, REPAIR) == {"found": False, "order": 9}

        for program, seen in (
            (KILLS_OF_THE_ORDER, [5, 9]),
            (KILLS_OF_THE_LISTS, [0, percpu_lists.SHORTEST]),
        ):
            kills = await run(vm, program)
            assert kills["ended"], kills
            assert kills["wrong"] == 0, kills
            assert kills["seen"] == seen, kills

        lists = await run(vm, LISTS)
        print(kernel, lists)
        assert lists["refused"] == ""
        assert lists["fraction"] == 0
        # One list's least for each zone and migrate type.
        assert lists["after"] <= 4 < 16 < lists["before"], lists
        assert lists["freed"] >= lists["before"] - lists["after"] - 8, lists


async def wait_order(vm: LabVm, order: int) -> None:
    deadline = time.monotonic() + DRAIN_DEADLINE_S
    while (await run(vm, "say(order=read_order('/'))"))["order"] != order:
        assert time.monotonic() < deadline, f"the order never became {order}"
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_trapped_memory_comes_back_and_a_kill_is_repaired(kernel: str) -> None:
    asyncio.run(scenario(kernel))
