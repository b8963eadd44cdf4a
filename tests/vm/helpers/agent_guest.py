"""A real guest for tests of the agent: one VM, driven from plain test functions."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from giveback.errors import VmError
from giveback_agent.release.report_order import STATE_PATH
from giveback_agent.runtime.reexec import FOLDER, LAUNCHER, MARK, OPTIONS
from giveback_agent.service.pass_log import CLASSIC_LINE, PASS_LINE
from giveback_kernel.page_reporting import ORDER_PATH
from giveback_kernel.zoneinfo import parse as zoneinfo_of
from giveback_kernel.zoneinfo import pcp_pages
from giveback_lab.images.image import GUEST_AGENT, GUEST_LAB
from giveback_lab.vms.vm import LabVm

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.guest_link import ExecResult
    from giveback_lab.vms.lab import Lab
    from giveback_lab.vms.vm import VmSpec

MIB = 1 << 20
T = TypeVar("T")
# For what must come, however slow the machine: no figure rests on it.
DEADLINE_S = 240.0
# A look into the guest starts a program there: often, and the guest is never idle.
POLL_S = 1.0
POLL_LINES_S = 0.05
# What `run` itself goes on with once it has unpacked: saves emulated seconds at each start.
UNPACKED = ("busybox", "env", f"{MARK}=1", "python3", OPTIONS, f"{FOLDER}/{LAUNCHER}")
UNPACK = (
    f"import sys; sys.path.insert(0, {GUEST_AGENT!r}); from giveback_agent.runtime import reexec; "
    f"reexec.compile_into({GUEST_AGENT!r}, {FOLDER!r})"
)
# Idle at once, and not only where nothing but the agent runs: for tests that look into the guest.
SOON = ("--set", "giveback.idleWindow=1", "--set", "giveback.idleBusyPercent=50")
# Without compaction, which may leave nothing to be reported in small pieces.
DEEP = (*SOON, "--set", "giveback.idleThreshold=0")
# Work that begins at SIGUSR1, at once: starting an interpreter may take longer than a pass.
BURN = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", flush=True)
signal.sigwait([signal.SIGUSR1])
while True: pass
"""
# Busy for a tenth of each half second, as an editor is.
EDITOR = """
import time
while True:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    time.sleep(0.45)
"""
# Leaves so many MiB available, by anonymous memory that cannot be swapped.
HOG = """
import mmap, sys, time
def available():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable"): return int(line.split()[1]) >> 10
held = []
while available() > int(sys.argv[1]):
    part = mmap.mmap(-1, 2 << 20)
    for at in range(0, 2 << 20, 4096): part[at] = 1
    held.append(part)
print("full", flush=True)
time.sleep(600)
"""
NOBODY = (
    "import os, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

# 96 MiB free in pieces of 64 KiB between others: the first 40 or so stay on per-CPU lists, unseen.
FRAGMENTS = """
import mmap, time
held = mmap.mmap(-1, 192 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, len(held), 4096): held[at] = 1
for at in range(0, len(held), 128 << 10): held.madvise(mmap.MADV_DONTNEED, at, 64 << 10)
"""
HOLD = FRAGMENTS + "print('held', flush=True); time.sleep(600)"
# Half of it, nearly all of which stays there.
HOLD_FEW = HOLD.replace("192 << 20", "96 << 20")
# Ends a service at each point of a pass, and says what the next one makes of it.
KILLS = (
    f"""
FRAGMENTS = {FRAGMENTS!r}
"""
    """
import atexit, fcntl, json, os, signal, subprocess, sys, time
ORDER, STATE = "/sys/module/page_reporting/parameters/page_reporting_order", "/run/giveback/report-order"
def order(): return int(open(ORDER).read())
def children(pid): return open(f"/proc/{pid}/task/{pid}/children").read().split()
def until(holds, what):
    end = time.monotonic() + 240
    while not holds():
        if time.monotonic() > end: sys.exit(f"not within 240 s: {what}")
        time.sleep(0.002)
def alive(pid):
    try: return open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "Z"
    except OSError: return False
def lock_free():
    with open("/run/giveback/agent.lock") as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: return False
    return True
said, scope = [], {}
def late(*_): sys.exit(f"not within 240 s: {Agent.words} of {said[-9:]}")
signal.signal(signal.SIGALRM, late)
class Agent:
    def __init__(self, *settings):
        command, out = [*sys.argv[1:-1], *settings, "run"], subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.told = False
        self.line("started")
    def line(self, words):
        Agent.words = words
        signal.alarm(240)
        for line in self.process.stderr:
            said.append(line)
            self.told = self.told or "restored after a killed agent" in line
            if line.startswith(f"giveback-agent: {words}"): return signal.alarm(0)
        sys.exit(f"the service ended before {words!r}")
    def reach(self, at):
        pid, (word, _, worker) = self.process.pid, at.partition("+")
        if word in ("lowered", "hold"):
            self.line("lower the" if word == "lowered" else "trigger")
            until(lambda: order() == 0, "order 0")
            if word == "hold": time.sleep(2)
        else: self.line(word)
        if worker: until(lambda: children(pid), f"a worker of {word}")
        return [int(child) for child in children(pid)]
def ready_for(at):
    # Make what a pass to this point needs, and start the service.
    if at.startswith(("sync", "reclaim")):
        with open("/work/churn", "wb") as file:
            for _ in range(40): file.write(bytes(1 << 20))
        return Agent("--set", "giveback.cacheFloor=1MB")
    exec(FRAGMENTS, scope)
    # Compaction may leave nothing to be reported in small pieces.
    return Agent() if at.startswith("compact") else Agent("--set", "giveback.idleThreshold=0")
points = [(9, at) for at in "sync sync+worker reclaim reclaim+worker compact compact+worker".split()]
points += [(9, at) for at in "lowered trigger hold".split()]
points += [(15, at) for at in ("reclaim+worker", "compact+worker", "hold")]
agent = ready_for(points[0][1])
for (number, at), (_, after) in zip(points, [*points[1:], points[0]]):
    started = time.monotonic()
    workers = agent.reach(at)
    os.kill(agent.process.pid, number)
    code = agent.process.wait()
    was = {"signal": number, "at": at, "code": code, "lowered": order() != 9}
    killed = time.monotonic()
    until(lambda: not any(map(alive, workers)), "the workers' end")
    # A worker killed with its parent before it had closed the lock's file holds it until it ends.
    until(lock_free, "the lock")
    was["workers"], was["workers_ended_s"] = len(workers), round(time.monotonic() - killed, 2)
    agent = ready_for(after)
    was["next"] = {"order": order(), "state": os.path.exists(STATE), "told": agent.told}
    was["took_s"] = round(time.monotonic() - started, 1)
    print(json.dumps(was), flush=True)
agent.process.terminate()
agent.process.wait()
"""
)


class Process:
    """A program that goes on in the guest; `lines` is what it has printed so far."""

    def __init__(self, guest: AgentGuest, pid: int, lines: list[str]) -> None:
        self.guest, self.pid, self.lines = guest, pid, lines

    def says(self, *words: str) -> bool:
        """Whether any of these words were printed."""
        return any(one in line for one in words for line in self.lines)

    def wait_until_it_says(self, *words: str) -> float:
        """Wait for any of the words; returns the seconds that took. Starts nothing in the guest."""
        return self.guest.wait(lambda: self.says(*words), repr(words), poll_s=POLL_LINES_S)

    def wait_until_a_pass_is_whole(self) -> None:
        """Wait for the service's word of a pass that nothing cut short. Starts nothing in the guest."""
        self.guest.wait(
            lambda: any(is_whole_pass(line) for line in self.lines),
            "a whole pass",
            poll_s=POLL_LINES_S,
        )

    def wait_until_a_pass_ends(self) -> None:
        """Wait for the service's word of a pass, however it ended."""
        self.guest.wait(lambda: any(map(is_pass, self.lines)), "a pass", poll_s=POLL_LINES_S)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.guest.do(self.guest.vm.guest.kill(self.pid, number))

    def end(self, number: int) -> None:
        """Send a signal, at once, and wait for the end."""
        with suppress(VmError):  # it has ended by itself
            self.signal(number)
        self.guest.sh(f"while [ -e /proc/{self.pid}/exe ]; do sleep 0.1; done")

    def looks(self) -> int:
        """How often it has gone to sleep: the service does so after each look."""
        for line in self.guest.read(f"/proc/{self.pid}/status").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
        raise AssertionError(f"no process {self.pid}")

    def wait_looks(self, count: int) -> None:
        """Wait until it has looked at the guest so many times more."""
        until = self.looks() + count
        self.guest.wait(lambda: self.looks() >= until, f"{count} looks")


def is_pass(line: str) -> bool:
    """Whether the service says here that a pass is over."""
    return line.startswith((CLASSIC_LINE, PASS_LINE))


def is_whole_pass(line: str) -> bool:
    """The same, and nothing cut it short."""
    return is_pass(line) and ", stopped: " not in line


class AgentGuest:
    """One booted VM. Each call runs the loop that its link lives on."""

    def __init__(self, runner: asyncio.Runner, vm: LabVm) -> None:
        self._runner, self.vm = runner, vm
        self._lines: list[str] = []
        self._sample = ""
        self._unpacked = False
        vm.guest.on_sample = self._keep_sample
        self.do(vm.guest.request("sample", period_s=1))

    def _keep_sample(self, event: dict[str, Any]) -> None:
        self._sample = event["files"]["/proc/meminfo"]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self._runner.run(work)

    def exec(self, *argv: str, timeout_s: float = 600) -> ExecResult:
        """Run a program to its end."""
        return self.do(self.vm.guest.exec(*argv, timeout_s=timeout_s))

    def unpack(self) -> None:
        """Have the agent's modules where `UNPACKED` looks for them, as a packed start leaves them."""
        if not self._unpacked:
            self.sh("mkdir -p /run/giveback")
            assert self.exec("python3", "-c", UNPACK).code == 0
        self._unpacked = True

    def sh(self, script: str) -> str:
        """Run a shell script that must not fail; returns what it printed."""
        result = self.exec("sh", "-c", script)
        assert result.code == 0, f"{script}: {result.text}"
        return result.text

    def agent(self, *words: str) -> ExecResult:
        """Run one of the agent's commands to its end, as root."""
        self.unpack()
        return self.exec(*UNPACKED, *words)

    def agent_as_nobody(self, *words: str) -> ExecResult:
        """The same without any right."""
        self.unpack()
        return self.exec("python3", "-c", NOBODY, *UNPACKED, *words)

    def spawn(self, *argv: str) -> Process:
        """Start a program that goes on."""
        lines = self._lines = []
        pid = self.do(self.vm.guest.spawn(*argv, on_line=lines.append))
        return Process(self, pid, lines)

    @contextmanager
    def running(self, *argv: str) -> Iterator[Process]:
        """A program for the length of a block; SIGKILLed at its end."""
        process = self.spawn(*argv)
        try:
            yield process
        finally:
            process.end(9)

    @contextmanager
    def service(self, *words: str, packed: bool = False) -> Iterator[Process]:
        """The agent's service for the length of a block; stopped by SIGTERM at its end."""
        if not packed:
            self.unpack()
        command = ("python3", GUEST_AGENT) if packed else UNPACKED
        process = self.spawn(*command, *words, "run")
        try:
            process.wait_until_it_says("started")
            self._unpacked = True
            yield process
        finally:
            process.end(15)

    def wait(
        self,
        holds: Callable[[], bool],
        what: str,
        deadline_s: float = DEADLINE_S,
        poll_s: float = POLL_S,
    ) -> float:
        """Wait until a condition holds; returns the seconds that took. Fails after the deadline."""
        began = time.monotonic()
        while not holds():
            self.do(asyncio.sleep(poll_s))
            late = time.monotonic() - began > deadline_s
            assert not late, f"not within {deadline_s:.0f} s: {what}\n{self._lines}"
        return time.monotonic() - began

    def read(self, path: str) -> str:
        """A file's text, or "" where there is none."""
        result = self.exec("cat", path)
        return result.text if result.code == 0 else ""

    def memory(self) -> dict[str, int]:
        """/proc/meminfo of the next second, in bytes."""
        self._sample = ""
        end_s = time.monotonic() + DEADLINE_S
        while not self._sample:
            assert time.monotonic() < end_s, "the guest sends no samples any more"
            self.do(asyncio.sleep(POLL_LINES_S))
        rows = [line.split() for line in self._sample.splitlines()]
        return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows if len(row) > 2}

    def cache_bytes(self) -> int:
        """Page cache of files."""
        memory = self.memory()
        return memory["Active(file)"] + memory["Inactive(file)"]

    def residue_bytes(self) -> int:
        """What the host holds for nothing, by the host's own count."""
        free = self.memory()["MemFree"]
        return self.vm.resident_bytes() - (self.vm.spec.ram_bytes - free)

    def order(self) -> int:
        """The kernel's page_reporting_order."""
        return int(self.read(ORDER_PATH))

    def lists_bytes(self) -> int:
        """What is free on per-CPU lists."""
        return pcp_pages(zoneinfo_of(self.read("/proc/zoneinfo").encode() + b"\n")) * 4096

    def has_state(self) -> bool:
        """Whether a lowered order is on record."""
        return self.exec("ls", STATE_PATH).code == 0

    def status(self) -> dict[str, Any]:
        """What the service published last."""
        said: dict[str, Any] = json.loads(self.read("/run/giveback/status.json") or "{}")
        return said

    def work(self, scale: float) -> None:
        """A developer's day in half a minute: files and programs, most of them gone at its end."""
        self.sh("rm -rf /work/src /work/obj /work/scratch* /work/build.log")
        size = str(self.vm.spec.ram_bytes)
        done = self.exec("python3", GUEST_LAB, "work", "/work", size, "1", str(scale))
        assert done.code == 0, done.text

    def cold_file(self, name: str, size_mib: int) -> None:
        """A file that was written once: dirty and cold."""
        self.sh(f"dd if=/dev/zero of=/work/{name} bs=1M count={size_mib} 2>/dev/null")

    def warm_file(self, name: str, size_mib: int) -> None:
        """A file that was read again and again."""
        self.cold_file(name, size_mib)
        self.sh(f"sync; for i in 1 2 3 4 5 6; do cat /work/{name} > /dev/null; done")


@contextmanager
def agent_guest(spec: VmSpec, lab: Lab, accel: Accel) -> Iterator[AgentGuest]:
    """Boot a VM and leave nothing behind."""
    with asyncio.Runner() as runner:
        vm = LabVm(spec, lab.image, lab.emulator)
        runner.run(vm.boot())
        try:
            yield AgentGuest(runner, vm)
        finally:
            runner.run(vm.stop())
