"""Difficult cgroups in a real guest: frozen, protected, without cache, vanishing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from giveback_lab.images.image import GUEST_AGENT, build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

DEADLINE_S = 240
MIB = 1 << 20

PROGRAM = """
import json, os, signal, sys, time
sys.path.insert(0, AGENT)
from giveback_agent.release.cache import cold_cache, lru_gen_training
from giveback_kernel.lru_gen import read_lru_gen
C = "/sys/fs/cgroup"
NAMES = ("frozen", "plain", "min", "bare")

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

def text(path):
    with open(path) as file:
        return file.read()

def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

def cache_mib(name):
    rows = dict(line.split() for line in text(f"{C}/{name}/memory.stat").splitlines())
    return (int(rows["active_file"]) + int(rows["inactive_file"])) >> 20

def inside(name):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        write(f"{C}/{name}/cgroup.procs", "0")
        if name != "bare":
            with open(f"/work/{name}", "rb") as file:
                while file.read(1 << 20): pass
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    return pid

def trained(name):
    began = time.monotonic()
    (number,) = {one.memcg_id for one in read_lru_gen("/").lists if one.memcg_path == f"/{name}"}
    evict = lru_gen_training.by_lru_gen("/", number, 0)
    count = lru_gen_training.train("/", f"/{name}", "/work", evict)
    return {"refaults": count.refaults, "took_s": time.monotonic() - began}

write(f"{C}/cgroup.subtree_control", "+memory")
for name in NAMES:
    os.mkdir(f"{C}/{name}")
    with open(f"/work/{name}", "wb") as file:
        for _ in range(32): file.write(os.urandom(1 << 20))
os.sync()
write("/proc/sys/vm/drop_caches", "3")
pids = [inside(name) for name in NAMES]
frozen = lambda: "frozen 1" in text(f"{C}/frozen/cgroup.events")
write(f"{C}/min/memory.min", str(64 << 20))
write(f"{C}/frozen/cgroup.freeze", "1")
until(frozen)
said = {"before": {name: cache_mib(name) for name in NAMES}}
said["trained"] = {name: trained(name) for name in NAMES}
# It froze after the look: the child joins it, and is killed.
lru_gen_training._is_frozen = lambda *_: False
lru_gen_training.TIMEOUT_S = 2.0
said["joined"] = trained("frozen")
until(frozen)
said["members"] = text(f"{C}/frozen/cgroup.procs").split() == [str(pids[0])]
write("/work/vanish", "x")
# One goes away while the others are worked on.
gone = os.fork()
if gone == 0:
    os.mkdir(f"{C}/gone")
    time.sleep(0.2)
    os.rmdir(f"{C}/gone")
    os._exit(0)
pid = os.fork()
if pid == 0:
    print(cold_cache.reclaim_cold("/", "generations", 1 << 40, "/work"), flush=True)
    os._exit(0)
began = time.monotonic()
said["code"] = os.waitpid(pid, 0)[1]
said["took_s"] = time.monotonic() - began
said["after"] = {name: cache_mib(name) for name in NAMES}
said["still_frozen"] = frozen()
for pid in pids: os.kill(pid, 9)
print(json.dumps(said), flush=True)
"""


async def in_guest(series: str) -> dict[str, Any]:
    kernel = await asyncio.to_thread(kernel_from_packages, series)
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    spec = VmSpec("hostile", 512 * MIB, 2, "tcg", work_disk_bytes=1 << 30)
    async with LabVm(spec, image, emulator) as vm:
        program = f"AGENT = {GUEST_AGENT!r}\n{PROGRAM}"
        await vm.guest.put("/tmp/program.py", program.encode())
        ran = await vm.watch(
            vm.guest.exec("python3", "/tmp/program.py", timeout_s=DEADLINE_S), DEADLINE_S, "hostile"
        )
        assert ran.code == 0, ran.text
        said: dict[str, Any] = json.loads(ran.lines[-1])
        return said | {"text": ran.text}


def test_a_frozen_cgroup_holds_nothing_up_and_the_others_give_their_cold_cache() -> None:
    said = asyncio.run(in_guest("6.12"))
    print(said["text"])
    trained = said["trained"]
    assert trained["frozen"]["refaults"] == 0
    for name in ("plain", "min", "bare"):
        assert trained[name]["refaults"] > 200, said["text"]
    # The guest is emulated on a busy machine: only the deadline matters.
    assert said["joined"]["refaults"] == 0
    assert 2 <= said["joined"]["took_s"] < 20
    assert said["members"]
    assert said["still_frozen"]
    assert said["code"] == 0
    assert said["before"]["plain"] >= 30
    assert said["after"]["plain"] <= 8, said["text"]
    # lru_gen ignores memory.min; the agent does not.
    assert said["after"]["min"] == said["before"]["min"], said["text"]
