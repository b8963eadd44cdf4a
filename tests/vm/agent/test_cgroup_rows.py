"""Memory by service and container, in the distribution guest: status and explain against memory.stat."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from giveback_kernel import memcg_usage
from giveback_lab.images.debian_files import CONTAINER_ARCHIVE
from giveback_lab.images.debian_guest import build_distribution_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import wait_until_it_serves
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.vms.accel import Accel

MIB = 1 << 20
DEADLINE_S = 300.0
NAME = f"cgroups-{os.getpid()}"
CACHE_MIB, SHARED_MIB, ANON_MIB, ENDED_MIB, COLD_MIB = 100, 40, 150, 80, 90
# The agent answers, and takes nothing: what ended must still be there when it is asked for.
SETTINGS = "[giveback]\nmode = disabled\n"
IN_CONTAINER = (
    f"dd if=/dev/zero of=/work/file bs=1M count={CACHE_MIB}; sync; "
    f"dd if=/dev/zero of=/dev/shm/shared bs=1M count={SHARED_MIB}; echo ready; sleep 100000"
)
IN_SERVICE = f"x = bytearray(b'x') * ({ANON_MIB} << 20); import time; time.sleep(100000)"
ENDING = f"dd if=/dev/zero of=/work/past bs=1M count={ENDED_MIB}; sync"
COLD = f"dd if=/dev/zero of=/work/cold bs=1M count={COLD_MIB}; sync; sleep 100000"
# The container keeps its cache, and all others give theirs back.
EXCLUDING = """[giveback]
exclude = machine.slice/libpod-*
cacheFloor = 1MB
idleWindow = 1
idleBusyPercent = 50
"""
WATCHED = ("system.slice/cold.service", "machine.slice")
# What the rows cost whoever makes an answer: seconds of CPU without them, and with them.
COST = """
import resource, sys, time
sys.path.insert(0, "/run/giveback-agent.pyz")
from giveback_agent.host_link.memory_event import memory_report
for cgroups in (False, True, False, True):
    before = time.process_time()
    memory_report("/", cgroups=cgroups)
    print(cgroups, round(time.process_time() - before, 3))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "KiB")
"""
SCOPE = "/sys/fs/cgroup/machine.slice/libpod-[0-9a-f]*.scope"
WAIT = "while ! podman logs web | grep -q ready; do sleep 1; done"


async def run(vm: LabVm, *argv: str) -> str:
    result = await vm.watch(vm.guest.exec(*argv, timeout_s=DEADLINE_S), DEADLINE_S, argv[0])
    assert result.code in (0, 3), f"{argv}: {result.text}"
    return result.text


async def workload(vm: LabVm) -> None:
    await vm.guest.put("/etc/giveback.conf", SETTINGS.encode())
    await wait_until_it_serves(vm)
    await run(vm, "systemctl", "restart", "giveback-agent")
    await run(vm, "podman", "import", "-q", CONTAINER_ARCHIVE, "localhost/lab")
    await run(
        vm, "podman", "run", "-d", "--name=web", "--network=none", "localhost/lab",
        "sh", "-c", IN_CONTAINER,
    )  # fmt: skip
    await run(vm, "systemd-run", "--quiet", "--unit=known", "python3", "-c", IN_SERVICE)
    await run(
        vm, "systemd-run", "--quiet", "--wait", "--unit=past", "--slice=machine.slice",
        "-p", "MemoryAccounting=yes", "sh", "-c", ENDING,
    )  # fmt: skip
    await run(vm, "systemd-run", "--quiet", "--unit=cold", "sh", "-c", COLD)
    await run(vm, "sh", "-c", WAIT)


async def explained(*words: str) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "giveback", "explain", f"giveback-{NAME}", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return out.decode()


async def seen(accel: str) -> dict[str, Any]:
    kernel = await asyncio.to_thread(kernel_from_packages, "6.12")
    image = await asyncio.to_thread(build_distribution_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    async with LabVm(VmSpec(NAME, 1536 * MIB, 2, accel), image, emulator) as vm:
        await workload(vm)
        await vm.qmp.disconnect()
        found = {"status": json.loads(await run(vm, "giveback-agent", "status", "--json"))}
        found["explain"] = json.loads(await explained("--json"))
        found["stat"] = await run(vm, "sh", "-c", f"cat {SCOPE}/memory.stat")
        found["service"] = await run(
            vm, "cat", "/sys/fs/cgroup/system.slice/known.service/memory.stat"
        )
        print(await run(vm, "python3", "-c", COST))
        print(await run(vm, "giveback-agent", "status"))
        text = ""
        # Answers take at most a tenth of a CPU, and the last one was just now.
        while "by service" not in text:
            text = await explained()
        print(text)
        found["excluding"] = await excluding(vm)
        return found


async def excluding(vm: LabVm) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """Let the agent take what is not excluded; returns the rows before and after."""
    before = by_name(await rows_of(vm))
    await vm.guest.put("/etc/giveback.conf", EXCLUDING.encode())
    await run(vm, "systemctl", "restart", "giveback-agent")
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    # `status` is a program that takes emulated seconds: a guest that is asked so would never be idle.
    while asyncio.get_running_loop().time() < deadline_s:
        await asyncio.sleep(5)
        texts = [await run(vm, "cat", f"/sys/fs/cgroup/{path}/memory.stat") for path in WATCHED]
        left = [memcg_usage.parse(text.encode()).cache_bytes for text in texts]
        if left[0] < 10 * MIB and left[1] < (CACHE_MIB + 10) * MIB:
            break
    after = by_name(await rows_of(vm))
    print(await run(vm, "giveback-agent", "status"))
    print(await run(vm, "journalctl", "-b", "-u", "giveback-agent", "-o", "cat"))
    return {"before": before, "after": after}


async def rows_of(vm: LabVm) -> list[dict[str, Any]]:
    said = json.loads(await run(vm, "giveback-agent", "status", "--json"))
    listed: list[dict[str, Any]] = said["guest"]["cgroups"]["rows"]
    return listed


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["kind"], row["name"]): row for row in rows}


# An emulated start of systemd and podman on a machine that others use, too.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def found(accel: Accel) -> dict[str, Any]:
    return asyncio.run(seen(accel.name))


def test_what_is_excluded_keeps_its_cache_and_all_else_gives_it_back(found: dict[str, Any]) -> None:
    before, after = found["excluding"]["before"], found["excluding"]["after"]
    web, cold, past = (
        ("container", "podman web"),
        ("service", "cold.service"),
        ("ended", "past.service"),
    )
    assert before[cold]["cache_bytes"] >= COLD_MIB * MIB
    assert after[cold]["cache_bytes"] < 10 * MIB
    assert past not in after or after[past]["cache_bytes"] <= 4 * MIB
    assert after[web]["cache_bytes"] >= before[web]["cache_bytes"] - MIB


def test_containers_services_and_what_ended_have_the_kernels_own_figures(
    found: dict[str, Any],
) -> None:
    container = memcg_usage.parse(found["stat"].encode())
    service = memcg_usage.parse(found["service"].encode())
    inside = found["status"]["guest"]["cgroups"]
    for rows in (by_name(inside["rows"]), by_name(found["explain"]["guest"]["cgroups"])):
        web, known = rows["container", "podman web"], rows["service", "known.service"]
        past = rows["ended", "past.service"]
        for row, usage in ((web, container), (known, service)):
            for field in memcg_usage.MemcgUsage._fields:
                assert abs(row[field] - getattr(usage, field)) <= 4 * MIB, (field, row, usage)
        assert web["cache_bytes"] >= CACHE_MIB * MIB
        assert web["shared_bytes"] == SHARED_MIB * MIB
        assert known["anon_bytes"] >= ANON_MIB * MIB
        assert abs(past["cache_bytes"] - ENDED_MIB * MIB) <= 4 * MIB
        for column in ("anon_bytes", "cache_bytes", "shared_bytes"):
            assert sum(row[column] for row in rows.values()) <= inside["total"][column] + 8 * MIB
    remedies = {part["what"] for one in found["explain"]["remedies"] for part in one["parts"]}
    assert "past.service ended and left it behind" in remedies
