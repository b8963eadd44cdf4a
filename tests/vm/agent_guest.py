"""A real guest for tests of the agent: one VM, driven from plain test functions."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from giveback.lab.image import GUEST_AGENT, GUEST_LAB
from giveback.lab.vm import LabVm
from giveback_agent.deep_report import STATE_PATH
from giveback_agent.kernel.page_reporting import ORDER_PATH
from giveback_agent.start import FOLDER, LAUNCHER, MARK, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from giveback.lab.accel import Accel
    from giveback.lab.demo import Lab
    from giveback.lab.guest_link import ExecResult
    from giveback.lab.vm import VmSpec

MIB = 1 << 20
T = TypeVar("T")
DEADLINE_S = 90.0
# A look into the guest starts a program there: often, and the guest is never idle.
POLL_S = 0.5
POLL_LINES_S = 0.05
# What `run` itself goes on with once it has unpacked: saves emulated seconds at each start.
UNPACKED = ("busybox", "env", f"{MARK}=1", "python3", OPTIONS, f"{FOLDER}/{LAUNCHER}")
BURN = "while True: pass"
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
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end: sys.exit(f"not within 60 s: {what}")
        time.sleep(0.002)
def alive(pid):
    try: return open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "Z"
    except OSError: return False
def lock_free():
    with open("/run/giveback/agent.pid") as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: return False
    return True
said, scope = [], {}
def late(*_): sys.exit(f"not within 30 s: {Agent.words} of {said[-9:]}")
signal.signal(signal.SIGALRM, late)
class Agent:
    def __init__(self):
        out = subprocess.DEVNULL
        self.process = subprocess.Popen(sys.argv[1:], stdout=out, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.told = False
        self.line("started")
    def line(self, words):
        Agent.words = words
        signal.alarm(30)
        for line in self.process.stderr:
            said.append(line)
            self.told = self.told or "restored after a killed agent" in line
            if line.startswith(f"giveback-agent: {words}"): return signal.alarm(0)
        sys.exit(f"the service ended before {words!r}")
    def reach(self, at):
        pid, (word, _, worker) = self.process.pid, at.partition("+")
        if word in ("lowered", "hold"):
            self.line("lower the" if word == "lowered" else "nudge")
            until(lambda: order() == 0, "order 0")
            if word == "hold": time.sleep(2)
        else: self.line(word)
        if worker: until(lambda: children(pid), f"a worker of {word}")
        return [int(child) for child in children(pid)]
def churn():
    exec(FRAGMENTS, scope)
    with open("/work/churn", "wb") as file:
        for _ in range(60): file.write(bytes(1 << 20))
points = [(9, at) for at in "sync sync+worker reclaim reclaim+worker compact compact+worker".split()]
points += [(9, at) for at in "lowered nudge hold".split()]
points += [(15, at) for at in ("reclaim+worker", "compact+worker", "hold")]
churn()
agent = Agent()
for number, at in points:
    workers = agent.reach(at)
    os.kill(agent.process.pid, number)
    code = agent.process.wait()
    was = {"signal": number, "at": at, "code": code, "lowered": order() != 9}
    killed = time.monotonic()
    until(lambda: not any(map(alive, workers)), "the workers' end")
    # A worker killed with its parent before it had closed the lock's file holds it until it ends.
    until(lock_free, "the lock")
    was["workers"], was["workers_ended_s"] = len(workers), round(time.monotonic() - killed, 2)
    churn()
    agent = Agent()
    was["next"] = {"order": order(), "state": os.path.exists(STATE), "told": agent.told}
    print(json.dumps(was), flush=True)
agent.process.terminate()
agent.process.wait()
"""
)


class Process:
    """A program that goes on in the guest; `lines` is what it has printed so far."""

    def __init__(self, guest: AgentGuest, pid: int, lines: list[str]) -> None:
        self.guest, self.pid, self.lines = guest, pid, lines

    def says(self, words: str) -> bool:
        """Whether these words were printed."""
        return any(words in line for line in self.lines)

    def wait_until_it_says(self, words: str, deadline_s: float = DEADLINE_S) -> float:
        """Wait for the words; returns the seconds that took."""
        return self.guest.wait(lambda: self.says(words), repr(words), deadline_s, POLL_LINES_S)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.guest.do(self.guest.vm.guest.kill(self.pid, number))

    def is_alive(self) -> bool:
        """Whether the guest still has it."""
        return self.guest.exec("ls", f"/proc/{self.pid}/exe").code == 0

    def end(self, number: int) -> None:
        """Send a signal and wait for the end."""
        if self.is_alive():
            self.signal(number)
        self.guest.wait(lambda: not self.is_alive(), f"the end of {self.pid}")

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


class AgentGuest:
    """One booted VM. Each call runs the loop that its link lives on."""

    def __init__(self, runner: asyncio.Runner, vm: LabVm) -> None:
        self._runner, self.vm = runner, vm
        self._lines: list[str] = []
        self._sample = ""
        vm.guest.on_sample = self._keep_sample
        self.do(vm.guest.request("sample", period_s=1))

    def _keep_sample(self, event: dict[str, Any]) -> None:
        self._sample = event["files"]["/proc/meminfo"]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self._runner.run(work)

    def exec(self, *argv: str) -> ExecResult:
        """Run a program to its end."""
        return self.do(self.vm.guest.exec(*argv))

    def sh(self, script: str) -> str:
        """Run a shell script that must not fail; returns what it printed."""
        result = self.exec("sh", "-c", script)
        assert result.code == 0, f"{script}: {result.text}"
        return result.text

    def agent(self, *words: str) -> ExecResult:
        """Run one of the agent's commands to its end, as root."""
        return self.exec(*UNPACKED, *words)

    def agent_as_nobody(self, *words: str) -> ExecResult:
        """The same without any right."""
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
        command = ("python3", GUEST_AGENT) if packed else UNPACKED
        process = self.spawn(*command, *words, "run")
        try:
            process.wait_until_it_says("started")
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
