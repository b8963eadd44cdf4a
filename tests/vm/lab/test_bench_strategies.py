"""Each strategy of the benchmark in a real guest: it starts, acts, ends, and cleans up.

The guest's own programs run with constants that make their rules act within seconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from giveback_kernel.page_reporting import ORDER_PATH
from giveback_lab.bench.strategies import STRATEGIES
from giveback_lab.bench.strategies.damon import KDAMOND, KDAMONDS
from giveback_lab.bench.strategies.running import InGuests
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.bench.strategy import Running
    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

MIB = 1 << 20
DEADLINE_S = 90.0
POLL_S = 0.2
CALM = "psi_percent=100"
QUICK = {
    "wsl-2019": (("period_s=0.5", "probe_s=0.1"), "compact"),
    "wsl-gen1-dropcache": (
        ("period_s=0.5", "intervals=2", "busy_per_mille=1000"),
        "drop the page cache",
    ),
    "wsl-gen1-gradual": (
        ("period_s=0.5", "intervals=2", "busy_per_mille=1000", "low_bytes=1", "high_bytes=2"),
        "reclaim",
    ),
    "wsl-gen2-dropcache": (
        ("period_s=0.5", "intervals=2", "busy_per_mille=1000"),
        "drop all caches",
    ),
    "wsl-gen2-gradual": (
        ("period_s=0.5", "intervals=2", "busy_per_mille=1000", "floor_bytes=0"),
        "reclaim",
    ),
    "kata-compact": (
        ("period_secs=1", "compact_threshold=0", "period_psi_percent_limit=100"),
        "compact: ",
    ),
    "kata-memcg": (
        (
            "period_secs=1",
            "idle_fresh_ignore_secs=0",
            "eviction_run_aging_count_min=1",
            "period_psi_percent_limit=100",
        ),
        "evicted",
    ),
    "senpai": (("period_s=0.5", "ratio=0.01", CALM), "reclaim"),
    "senpai-oomd": (
        ("period_s=0.5", "ticks=1", "ratio=0.1", CALM, "limit_min_bytes=0"),
        "reclaim",
    ),
}


async def says(running: Running, words: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while words not in running.log:
        assert time.monotonic() < end_s, f"never {words!r}: {running.log}"
        await asyncio.sleep(POLL_S)


async def text(vm: LabVm, script: str) -> str:
    result = await vm.watch(vm.guest.exec("sh", "-c", script), DEADLINE_S, script)
    assert result.code == 0, f"{script}: {result.text}"
    return result.text


async def read_file(vm: LabVm) -> None:
    """Read a file once: unneeded cache."""
    await text(vm, "busybox dd if=/dev/zero of=/work/f bs=1M count=16 2>/dev/null; sync")


async def programs(vm: LabVm) -> int:
    return (await text(vm, "busybox ps -o comm")).split().count("python3")


async def guest_programs(vm: LabVm) -> None:
    for name, (options, words) in QUICK.items():
        if words != "compact":
            await read_file(vm)
        running = InGuests()
        await running.run(vm, name, *options)
        assert len(running.guest_pids[vm.spec.name]) == 1
        await says(running, words)
        await running.stop()
        assert running.problems == [], name


async def whole_strategies(vm: LabVm) -> None:
    """Start them as the benchmark does. Those that take minutes to act are only started and ended."""
    for name, words in (
        ("none", ""),
        ("order-0", "9 -> 0"),
        ("proactive-100", "20 -> 100"),
        ("wsl-gen2-gradual", "9 -> 5"),
        ("giveback-no-nudge", "started, mode adaptive"),
    ):
        running = await STRATEGIES[name].start([vm], vm.spec.ram_bytes)
        await says(running, words)
        await running.stop()
        assert running.problems == [], name
    assert await programs(vm) == 1
    assert (await text(vm, f"cat {ORDER_PATH}")).strip() == "9"


async def damon(vm: LabVm) -> None:
    """The kernel reclaims cold cache by the scheme, and removes the scheme at the end."""
    script = "busybox dd if=/dev/zero of=/work/cold bs=1M count=48 && sync && cat /work/cold"
    await text(vm, f"({script}) > /dev/null 2>&1")
    before_bytes = await cached_bytes(vm)
    running = await STRATEGIES["damon-agentenv"].start([vm], vm.spec.ram_bytes)
    (pid,) = running.guest_pids[vm.spec.name]
    assert (await text(vm, f"cat /proc/{pid}/comm")).startswith("kdamond")
    assert (await text(vm, f"cat {KDAMOND}/state")).strip() == "on"
    end_s = time.monotonic() + DEADLINE_S
    while await cached_bytes(vm) > before_bytes - 24 * MIB:
        assert time.monotonic() < end_s, "DAMON has reclaimed nothing"
        await asyncio.sleep(POLL_S)
    await running.stop()
    assert running.problems == []
    assert (await text(vm, f"cat {KDAMONDS}/nr_kdamonds")).strip() == "0"


async def cached_bytes(vm: LabVm) -> int:
    return int((await text(vm, "busybox grep ^Cached: /proc/meminfo")).split()[1]) << 10


async def proxmox(vm: LabVm) -> None:
    """On a host that is too small for the VM's memory, its balloon inflates, and deflates at the end."""
    running = await STRATEGIES["proxmox"].start([vm], 64 * MIB)
    # The size of the first step depends on the guest's free memory at that moment.
    await says(running, "strategies: 512 -> ")
    await running.stop()
    assert running.problems == []
    answer = await vm.qmp.execute("query-balloon")
    assert answer == {"actual": vm.spec.ram_bytes}


async def all_of(spec: VmSpec, lab: Lab) -> None:
    async with LabVm(spec, lab.image, lab.emulator) as vm:
        await guest_programs(vm)
        await whole_strategies(vm)
        await damon(vm)
        await proxmox(vm)


def test_each_strategy_starts_acts_and_leaves_nothing(lab: Lab, accel: Accel) -> None:
    asyncio.run(all_of(VmSpec("strategies", 512 * MIB, 2, accel.name), lab))
