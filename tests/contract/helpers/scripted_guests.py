"""Guests that misbehave on demand: real processes with real RAM, a QEMU's command line and its port.

Each serves one client of its agent's port at a time, as QEMU does, and frees real memory when it is
told that the host needs it. `Host` is a root on which nothing but these guests runs, and whose
memory is as short as the test says. Nobody else on the machine takes them for VMs, and connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from named_python import ENVIRONMENT, STAND_IN, python_named
from scripted_vmm import descriptors_of

from giveback.manager.settings.load import DaemonSettings, from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
GIB = 1 << 30
DEADLINE_S = 60.0
QEMU = "/opt/qemu-system-x86_64"

PROGRAM = r"""
import base64, ctypes, json, mmap, os, select, socket, sys, time, zlib
spec = json.loads(sys.argv[1])
size, held = spec["ram_mib"] << 20, spec["held_mib"] << 20
whole = mmap.mmap(-1, size + 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(whole)) + 4096
libc = ctypes.CDLL(None)
for guard in (base - 4096, base + size):
    libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(4096), 0)
libc.madvise(ctypes.c_void_p(base), ctypes.c_size_t(size), 15)
ctypes.memset(base, 1, held)
state = {"cache": spec["cache_mib"] << 20, "used": held - (spec["cache_mib"] << 20)}
log = open(spec["log"], "a", buffering=1)

def meminfo():
    kib = {"MemTotal": size >> 10, "MemFree": (size - state["used"] - state["cache"]) >> 10}
    kib["MemAvailable"] = kib["MemFree"] + (state["cache"] >> 10)
    names = "Buffers SwapCached Unevictable Mlocked SwapTotal SwapFree Dirty Writeback Mapped Shmem"
    kib |= dict.fromkeys(names.split(), 0)
    kib["Cached"] = kib["Inactive(file)"] = kib["Inactive"] = state["cache"] >> 10
    kib |= {"Active": 0, "Active(anon)": 0, "Inactive(anon)": 0, "Active(file)": 0}
    kib["AnonPages"] = (state["used"] >> 10) - 1024
    kib |= {"Slab": 1024, "SReclaimable": 512, "SUnreclaim": 512, "KReclaimable": 512}
    kib |= {"KernelStack": 0, "PageTables": 0, "Percpu": 0, "Hugepagesize": 2048}
    return "".join(f"{name}: {value:>8} kB\n" for name, value in kib.items())

def buddyinfo():
    pages = (size - state["used"] - state["cache"]) >> 12
    return "Node 0, zone   Normal " + "".join(" 0" for _ in range(10)) + f" {pages >> 10}\n"

def free_cache(most=1 << 60):
    amount = min(state["cache"], most) >> 12 << 12
    if amount:
        end = state["used"] + state["cache"]
        libc.madvise(ctypes.c_void_p(base + end - amount), ctypes.c_size_t(amount), 4)
        state["cache"] -= amount

def line(**message):
    return json.dumps({"v": 1, **message}).encode() + b"\n"

def answers(said, kind, before):
    if "urgency" in said:
        log.write(f"{said['urgency']} {said['lease_s']} {time.monotonic():.3f}\n")
        log.write(f"by {said.get('by')}\n")
        goal, number = said.get("goal_bytes"), said.get("goal_number")
        if goal is not None:
            log.write(f"goal {goal}\n")
            kept = max(0, state["cache"] - goal)
            if number is not None and number == state.get("goal"):
                kept = max(kept, state["kept"])
            goal, state["kept"] = state["cache"] - kept, kept
        state["goal"] = number
        keeps = kind == "promises" or kind in ("keeps", "tells floor") and said["urgency"] < 2
        if not keeps and said["urgency"] >= 1:
            free_cache(goal if kind in ("keeps", "tells floor", "exact") and goal is not None else 1 << 60)
        yield line(event="urgency", id=said["id"], urgency=said["urgency"], lease_s=said["lease_s"])
        if kind == "restarts" and not before:
            before.append(1)
            yield line(event="hello", agent="scripted, started again", asks=["memory"])
    elif said.get("ask") in ("memory", "pages"):
        number = said["id"]
        message = dict(event="memory", id=number, page_bytes=4096, reporting=True, report_order=9,
            meminfo=meminfo(), buddyinfo=buddyinfo(), pcp_bytes=0, compressed_swap_bytes=0)
        if said.get("cgroups") is True:
            message["cgroups"] = ["container\t1048576\t0\t0\t0\t0\tpodman web\t/a"]
        if kind == "tells floor":
            message["learned_floor_bytes"] = state["cache"]
        if kind == "whole only":
            message["cache_in_parts"] = False
        if kind == "impostor":
            message |= {"vm": "victim", "name": "victim", "key": "qemu:victim:1", "pid": 1}
        if kind == "replay":
            before.append(number)
            for old in before[:-1]:
                yield line(**{**message, "id": old, "meminfo": meminfo().replace("MemFree", "Was")})
        if kind != "mute":
            yield line(**message)
        if kind == "replay":
            yield line(**message)
        if said["ask"] == "pages":
            data = pages()
            parts = [data[at:at + 100] for at in range(0, len(data), 100)]
            for part, text in enumerate(parts):
                yield line(event="pages", id=number, part=part, of=len(parts), data=text)

def pages():
    # Half of it free, page by page, and not compressed: more lines than it may send unasked.
    return base64.b64encode(zlib.compress(b"F1A1" * (size >> 13), 0)).decode()

def serve(client, kind):
    before = []
    client.sendall(line(event="hello", agent="scripted", asks=["memory"]))
    if kind == "flood":
        while True:
            client.sendall(line(event="step", text="flood") * 50)
    if kind == "long":
        while True:
            client.sendall(b"x" * 65536)
    if kind == "garbage":
        while True:
            client.sendall(b"\xff\xfe\x00 no text\n[[[[[\n" * 8)
    if kind == "leaves":
        return
    stream = client.makefile("rb")
    while data := stream.readline():
        if data.strip():
            for answer in answers(json.loads(data), kind, before):
                client.sendall(answer)

listener = socket.socket(socket.AF_UNIX)
listener.bind(spec["port"])
listener.listen(1)
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    with client:
        try:
            serve(client, spec["kind"])
        except OSError:
            pass
    log.write("gone\n")
"""


@dataclass
class Guest:
    """A running guest. `heard` are the urgencies it was told: (urgency, lease, when)."""

    name: str
    port: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def heard(self) -> list[tuple[int, float, float]]:
        words = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(w[0]), float(w[1]), float(w[2])) for w in words if len(w) == 3]

    @property
    def goals(self) -> list[int]:
        """The amounts that it was told are wanted."""
        words = [line.split() for line in self.log.read_text().splitlines()]
        return [int(w[1]) for w in words if w[0] == "goal"]

    @property
    def setters(self) -> list[str]:
        """Who set each urgency that it was told."""
        words = [line.split() for line in self.log.read_text().splitlines()]
        return [w[1] for w in words if w[0] == "by"]

    def end(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.kill()
        self.process.wait()
        self.port.unlink(missing_ok=True)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Host:
    """A root with the real /proc entries of the guests, and memory as the test says."""

    def __init__(self, folder: Path, total_bytes: int = 64 * GIB) -> None:
        self.root = folder / "root"
        self.folder = folder
        self.total_bytes = total_bytes
        (self.root / "proc/pressure").mkdir(parents=True)
        (self.root / "proc/net").mkdir()
        (self.root / "proc/net/unix").symlink_to("/proc/net/unix")
        (self.root / "proc/vmstat").write_bytes(Path("/proc/vmstat").read_bytes())
        self.set_available(total_bytes // 2)

    def set_available(self, amount_bytes: int) -> None:
        """As much memory is available from now on."""
        lines = []
        for line in Path("/proc/meminfo").read_text().splitlines():
            name = line.partition(":")[0]
            value = {"MemTotal": self.total_bytes, "MemAvailable": amount_bytes}.get(name)
            if name.startswith("Huge"):
                continue
            lines.append(line if value is None else f"{name}: {value >> 10} kB")
        path = self.root / "proc/meminfo"
        temporary = path.with_suffix(".new")
        temporary.write_text("\n".join(lines) + "\n")
        temporary.replace(path)

    def settings(self, more: str = "") -> DaemonSettings:
        """Settings whose files are all in the test's folder."""
        text = f'[daemon]\nsocket = "{self.folder}/api.sock"\nstate = "{self.folder}/state"\n{more}'
        return from_bytes(text.encode(), "test")

    def show(self, pid: int, runs: str = QEMU) -> None:
        """Let the daemon see this process, as one that runs QEMU, or another VMM."""
        real, making = Path(f"/proc/{pid}"), self.root / f"proc/.{pid}"
        making.mkdir()
        for entry in real.iterdir():
            if entry.name in ("cwd", "root"):
                (making / entry.name).symlink_to(entry.readlink())
            elif entry.name != "exe":
                (making / entry.name).symlink_to(entry)
        (making / "exe").symlink_to(runs)
        making.rename(self.root / f"proc/{pid}")

    def hide(self, pid: int) -> None:
        shown, hidden = self.root / f"proc/{pid}", self.root / f"proc/.{pid}"
        with contextlib.suppress(FileNotFoundError):
            shown.rename(hidden)
            shutil.rmtree(hidden)

    @contextlib.contextmanager
    def guest(
        self, name: str, kind: str = "good", *, ram_mib: int = 64, held_mib: int = 48,
        cache_mib: int = 0, has_agent: bool = True, monitor: str = "",
    ) -> Iterator[Guest]:  # fmt: skip
        """A guest that runs while the block does."""
        guest = self.start(
            name, kind, ram_mib=ram_mib, held_mib=held_mib, cache_mib=cache_mib,
            has_agent=has_agent, monitor=monitor,
        )  # fmt: skip
        try:
            yield guest
        finally:
            guest.end()
            self.hide(guest.pid)

    def start(
        self, name: str, kind: str = "good", *, ram_mib: int = 64, held_mib: int = 48,
        cache_mib: int = 0, has_agent: bool = True, monitor: str = "",
    ) -> Guest:  # fmt: skip
        """A guest that runs until its `end`."""
        port, log = self.folder / f"{name}.port", self.folder / f"{name}.log"
        log.touch()
        spec = {"ram_mib": ram_mib, "held_mib": held_mib, "cache_mib": cache_mib, "kind": kind}
        spec |= {"log": str(log), "port": str(port)}
        words = ["-m", f"{ram_mib}M", "-name", name]
        words += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
        if monitor:
            words += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        if has_agent:
            words += ["-chardev", f"socket,id=c,path={port},server=on,wait=off"]
            words += ["-device", "virtserialport,chardev=c,name=org.giveback.agent.0"]
        child = subprocess.Popen(
            [QEMU, "-S", "-c", PROGRAM, json.dumps(spec), *words],
            executable=python_named(STAND_IN),
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            # Nothing is sent to a monitor that is not among its own descriptors.
            pass_fds=descriptors_of(monitor),
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        self.show(child.pid)
        return Guest(name, port, child, log)


async def until(condition: Callable[[], object], what: str = "", pause_s: float = 0.02) -> None:
    """Wait for a condition; fails with what was waited for."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, what or condition
        await asyncio.sleep(pause_s)


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
