"""The agent in a cgroup namespace, as WSL's distributions are since 2.9.13, and outside: what comes back.

The tree is WSL's: /wsl-user/distro-N, each a namespace of its own (microsoft/WSL#41512). Two distributions
have read a file once, in cgroups of the same name. An agent inside one returns that one's cache and leaves
the other's; an agent outside, with the kernel's own root, returns both.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from guest_program import PAGE_CACHE

from giveback_lab.images.image import GUEST_AGENT, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

DEADLINE_S = 300
MIB = 1 << 20
# Large beside the 20 to 40 MiB of small free blocks that any pass leaves in such a guest.
OURS_MIB, THEIRS_MIB = 320, 120
BACK_PART = 0.9

PROGRAM = """
import ctypes, json, os, subprocess, sys
C = "/sys/fs/cgroup"
CLONE_NEWNS, CLONE_NEWCGROUP, MS_REC, MS_PRIVATE = 0x20000, 0x2000000, 0x4000, 0x40000

def must(result):
    if result: raise OSError(ctypes.get_errno(), "unshare or mount")

def cached_mib(name):
    return cached_pages(f"/work/{name}") // 256

def distribution(number, name, mib, then):
    # What WSL does before a distribution's init starts, and what that then does.
    folder = f"{C}/wsl-user/distro-{number}"
    os.makedirs(folder)
    pid = os.fork()
    if pid:
        if os.waitpid(pid, 0)[1]: raise SystemExit("a distribution failed")
        return
    write(f"{folder}/cgroup.procs", "0")
    must(libc.unshare(CLONE_NEWNS | CLONE_NEWCGROUP))
    must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    # Over the kernel's root, which stays in the table, hidden; not at once over its own kind.
    must(libc.mount(b"tmpfs", C.encode(), b"tmpfs", 0, None))
    must(libc.mount(b"cgroup2", C.encode(), b"cgroup2", 0, None))
    os.makedirs(f"{C}/init.scope")
    write(f"{C}/init.scope/cgroup.procs", "0")
    os.makedirs(f"{C}/system.slice/docker.service")
    for path in (C, f"{C}/system.slice"):
        write(f"{path}/cgroup.subtree_control", "+memory")
    reader = os.fork()
    if reader == 0:
        write(f"{C}/system.slice/docker.service/cgroup.procs", "0")
        read_whole(f"/work/{name}")
        os._exit(0)
    os.waitpid(reader, 0)
    then()
    sys.stdout.flush()
    os._exit(0)

def run(*words):
    command = ["python3", AGENT, "--set", "giveback.cacheFloor=1MB", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout + done.stderr, flush=True)
    return done.stdout

def inside():
    print(json.dumps({"inside": os.path.exists(f"{C}/cgroup.type")}))
    if WHERE == "inside":
        run("doctor")
        run("release")

os.makedirs(f"{C}/wsl-user")
for path in (C, f"{C}/wsl-user"):
    write(f"{path}/cgroup.subtree_control", "+memory")
for name, mib in (("ours", OURS), ("theirs", THEIRS)):
    with open(f"/work/{name}", "wb") as file:
        for _ in range(mib): file.write(os.urandom(1 << 20))
os.sync()
write("/proc/sys/vm/drop_caches", "3")
distribution(3, "theirs", THEIRS, lambda: None)
print("measured", flush=True)
before = {}
def both():
    before.update(ours=cached_mib("ours"), theirs=cached_mib("theirs"))
    inside()
    print(json.dumps({"before": before}))
distribution(27, "ours", OURS, both)
if WHERE == "outside":
    run("release")
print(json.dumps({"ours": cached_mib("ours"), "theirs": cached_mib("theirs")}), flush=True)
"""


async def released(where: str) -> tuple[str, dict[str, int], int]:
    """The agent's words, MiB of each file still cached, and bytes back at the host of the most it held."""
    kernel = await asyncio.to_thread(kernel_from_packages, "6.12")
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    program = f"AGENT, WHERE, OURS, THEIRS = {GUEST_AGENT!r}, {where!r}, {OURS_MIB}, {THEIRS_MIB}\n"
    spec = VmSpec(f"namespace-{where}", 896 * MIB, 2, "tcg", work_disk_bytes=1 << 30)
    async with LabVm(spec, image, emulator) as vm:
        await vm.guest.put("/tmp/namespace.py", (program + PAGE_CACHE + PROGRAM).encode())
        run = asyncio.create_task(
            vm.guest.exec("python3", "/tmp/namespace.py", timeout_s=DEADLINE_S)
        )
        most = 0
        while not run.done():
            most = max(most, vm.resident_bytes())
            await asyncio.wait([run], timeout=0.5)
        ran = run.result()
        assert ran.code == 0, ran.text
        left = json.loads(ran.lines[-1])
        wanted = BACK_PART * (OURS_MIB + (THEIRS_MIB if where == "outside" else 0)) * MIB
        deadline = asyncio.get_running_loop().time() + DEADLINE_S / 3
        while most - vm.resident_bytes() < wanted:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.5)
        return ran.text, left, most - vm.resident_bytes()


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_what_comes_back_to_the_host(where: str) -> None:
    text, left, back_bytes = asyncio.run(released(where))
    print(text, left, back_bytes // MIB)
    assert '{"inside": true}' in text
    assert left["ours"] <= OURS_MIB * (1 - BACK_PART) + 4, text
    if where == "inside":
        assert "cgroup namespace" in text
        assert "/wsl-user/distro-27" in text
        assert left["theirs"] >= THEIRS_MIB - 2, text
    else:
        assert left["theirs"] <= THEIRS_MIB * (1 - BACK_PART) + 4, text
    reachable = OURS_MIB + (THEIRS_MIB if where == "outside" else 0)
    assert back_bytes >= BACK_PART * reachable * MIB, text
