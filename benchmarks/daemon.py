"""Measure what `giveback daemon` costs on a host with many VMs, and how soon all of them get an urgency.

    .venv/bin/python benchmarks/daemon.py [VMS ...]     (10 100 1000)

The VMs are real processes with real RAM and as many mappings as QEMU has; other processes answer
for their monitors and agents. The daemon runs completely, with its socket, its metrics and its
history, on a root that shows these processes only.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import ctypes
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/contract/helpers"))

from scripted_guests import GIB, MIB, Host  # noqa: E402
from scripted_vms import BUDDYINFO, MEMINFO, Monitor  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.host.procs import Process
    from giveback.vmm.base import VmDescription

SETTLE_S = float(os.environ.get("BENCH_SETTLE_S", "45"))
PROFILE = os.environ.get("BENCH_PROFILE", "")
MEASURE_S = float(os.environ.get("BENCH_MEASURE_S", "60"))
RAM_BYTES, HELD_BYTES = 64 * MIB, 1 * MIB
MAPPINGS = 300
A_FARM = 250
EVENTS = int(os.environ.get("BENCH_EVENTS", "5"))
HOST_BYTES = 1024 * GIB


def main() -> None:
    if sys.argv[1:2] == ["--farm"]:
        farm(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        measure([int(word) for word in sys.argv[1:]] or [10, 100, 1000])


# The guests.


def farm(folder: Path, first: int, last: int) -> None:
    """Fork the VMs' processes, then answer for their agents and monitors until the input ends."""
    libc = ctypes.CDLL(None)
    pids = {}
    heard = mmap.mmap(os.open(folder / "heard", os.O_RDWR), 0)
    # Before the VMs' processes, which are to have their sockets: what is another's is not spoken to.
    agents = Agents(folder, range(first, last), heard)
    for number in range(first, last):
        pid = os.fork()
        if not pid:
            be_a_vm(libc)
        pids[number] = pid
    print(json.dumps(pids), flush=True)
    agents.answer_until_input_ends()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)


def be_a_vm(libc: ctypes.CDLL) -> None:
    """Map RAM of a memfd and a few hundred further mappings, then do nothing."""
    libc.prctl(1, signal.SIGKILL)
    fd = os.memfd_create("ram")
    os.ftruncate(fd, RAM_BYTES)
    ram = mmap.mmap(fd, RAM_BYTES)
    ram[:HELD_BYTES] = b"1" * HELD_BYTES
    small = mmap.mmap(-1, MAPPINGS * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(small))
    for page in range(0, MAPPINGS, 2):
        libc.mprotect(ctypes.c_void_p(base + page * 4096), ctypes.c_size_t(4096), 1)
    os.closerange(0, 3)
    while True:
        signal.pause()


class Agents:
    """The agents and monitors of many VMs, in one loop."""

    def __init__(self, folder: Path, numbers: range, heard: mmap.mmap) -> None:
        self._heard = heard
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, int, bool]] = {}
        self._clients: dict[int, tuple[socket.socket, int, bool]] = {}
        self._said = json.dumps(
            {"v": 1, "event": "memory", "page_bytes": 4096, "reporting": True, "report_order": 9,
             "pcp_bytes": 65536, "compressed_swap_bytes": 0,
             "meminfo": MEMINFO, "buddyinfo": BUDDYINFO}
        )  # fmt: skip
        for number in numbers:
            for name, is_monitor in ((f"{number}.a", False), (f"{number}.q", True)):
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(str(folder / name))
                listener.listen(1)
                self._listeners[listener.fileno()] = (listener, number, is_monitor)
                self._epoll.register(listener, select.EPOLLIN)
        self._epoll.register(0, select.EPOLLIN)

    def answer_until_input_ends(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == 0:
                    return
                if fd in self._listeners:
                    self._accept(*self._listeners[fd])
                else:
                    self._serve(fd, *self._clients[fd])

    def _accept(self, listener: socket.socket, number: int, is_monitor: bool) -> None:
        client, _ = listener.accept()
        self._clients[client.fileno()] = (client, number, is_monitor)
        self._epoll.register(client, select.EPOLLIN)
        hello: dict[str, object] = {"v": 1, "event": "hello", "agent": "0", "asks": ["memory"]}
        if is_monitor:
            hello = {"QMP": {"version": {}, "capabilities": []}}
        client.sendall(json.dumps(hello).encode() + b"\n")

    def _serve(self, fd: int, client: socket.socket, number: int, is_monitor: bool) -> None:
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self._epoll.unregister(fd)
            del self._clients[fd]
            client.close()
            return
        parts = [data] if is_monitor else data.splitlines()
        for line in parts:
            if line.strip():
                client.sendall(self._answer(json.loads(line), number, is_monitor) + b"\n")

    def _answer(self, asked: dict[str, object], number: int, is_monitor: bool) -> bytes:
        if is_monitor:
            reply = {
                "return": Monitor.answers.get(str(asked["execute"]), {}),
                "id": asked.get("id"),
            }
            return json.dumps(reply).encode()
        if "urgency" in asked:
            if asked["urgency"]:
                struct.pack_into("d", self._heard, 8 * number, time.monotonic())
            return json.dumps(
                {"event": "urgency", "id": asked["id"], "urgency": asked["urgency"],
                 "lease_s": asked["lease_s"]}
            ).encode()  # fmt: skip
        return f'{self._said[:-1]}, "id": {asked["id"]}}}'.encode()


# The daemon.


class Scripted:
    """Recognise the farm's processes by their PID, with QEMU's backend for queries."""

    name = "qemu"
    layout_taints = False

    def __init__(self, folder: Path) -> None:
        from giveback.vmm.backends.qemu import QemuBackend

        self._folder = folder
        self._numbers = {int(k): v for k, v in json.loads((folder / "pids").read_text()).items()}
        self._qemu = QemuBackend()
        self.inspect = self._qemu.inspect

    def recognise(self, process: Process) -> VmDescription | None:
        from giveback.vmm import base

        number = self._numbers.get(process.pid)
        if number is None:
            return None
        return base.VmDescription(
            backend="qemu",
            name=f"vm{number}",
            pid=process.pid,
            ram_bytes=RAM_BYTES,
            ram_blocks=(base.RamBlock("ram", RAM_BYTES, base.Backing.MEMFD, shared=True),),
            capabilities=base.Capabilities(base.Answer.YES, base.Answer.YES),
            channels=(
                base.Channel(
                    base.ChannelKind.VIRTIO_SERIAL, f"{self._folder}/{number}.a", pid=process.pid
                ),
            ),
            control=f"{self._folder}/{number}.q",
        )


async def serve(folder: Path) -> None:
    """Run the daemon with all its surfaces; print its oldest sample's age every second."""
    from giveback.manager import logs
    from giveback.manager.daemon import Daemon
    from giveback.manager.devices.fallback import Fallbacks
    from giveback.manager.history.recorder import History
    from giveback.manager.lifecycle import _endpoint
    from giveback.manager.settings.load import load

    settings = load(folder / "giveback.toml")
    logs.set_up(sys.stderr, "warning")
    history = History(str(settings.history), settings.history_limit_bytes)
    daemon = Daemon(
        settings,
        recorder=history,
        fallbacks=Fallbacks(settings.state),
        root=str(folder / "root"),
        backends=[Scripted(folder)],
    )

    async def report() -> None:
        while True:
            now_s = time.monotonic()
            sampled = [vm.host.sampled_at_s for vm in daemon.fleet]
            reported = [vm.guest.reported_at_s for vm in daemon.fleet]
            ages = [now_s - at_s for at_s in sampled if at_s is not None]
            answers = [now_s - at_s for at_s in reported if at_s is not None]
            line = [len(ages), len(answers), max(ages, default=0), max(answers, default=0)]
            print(json.dumps(line), flush=True)
            await asyncio.sleep(1)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.stop)
    async with serving_of(daemon, _endpoint(settings, lambda: settings)):
        reporting = asyncio.create_task(report())
        profile = cProfile.Profile()
        if PROFILE:
            asyncio.get_running_loop().call_later(SETTLE_S, profile.enable)
        await daemon.run()
        if PROFILE:
            profile.disable()
            profile.dump_stats(PROFILE)
        reporting.cancel()
    history.close()


def serving_of(daemon: object, endpoint: object) -> contextlib.AbstractAsyncContextManager[object]:
    from giveback.manager.http.server import serving

    return serving(daemon, endpoint)  # type: ignore[arg-type]


# The measurement.


def measure(counts: list[int]) -> None:
    print(
        f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; calm for {MEASURE_S:.0f} s"
    )
    head = ("VMs", "CPU % of a core", "% a VM", "RSS MiB", "PSS MiB", "oldest look s", "oldest word s",
            "all told s")  # fmt: skip
    print(" ".join(f"{word:>15}" for word in head))
    alone: float | None = None
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="giveback-") as name:
            share, rss, pss, look, word, told = once(Path(name), count)
        alone = share if alone is None else alone
        each = f"{share / count:.4f}" if count else ""
        row = (str(count), f"{share:.2f}", each, f"{rss / MIB:.0f}", f"{pss / MIB:.0f}",
               f"{look:.1f}", f"{word:.1f}", f"{told:.2f}")  # fmt: skip
        print(" ".join(f"{cell:>15}" for cell in row), flush=True)


def once(folder: Path, count: int) -> tuple[float, int, int, float, float, float]:
    host = Host(folder, HOST_BYTES)
    (folder / "giveback.toml").write_text(
        f'[daemon]\nsocket = "{folder}/api.sock"\nstate = "{folder}/state"\n'
        '[host]\ncalm_for = "1s"\n'
    )
    (folder / "heard").write_bytes(bytes(8 * max(1, count)))
    with contextlib.ExitStack() as stack:
        pids = dict[int, int]()
        for first in range(0, count, A_FARM):
            pids |= stack.enter_context(farmed(folder, first, min(count, first + A_FARM)))
        for pid in pids:
            host.show(pid)
        (folder / "pids").write_text(json.dumps(pids))
        daemon = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder)], stdout=subprocess.PIPE, text=True
        )
        stack.callback(end, daemon)
        assert daemon.stdout is not None
        ages = daemon.stdout
        wait_until_all(ages, count)
        read_for(ages, SETTLE_S)
        before_s, began_s = cpu_s(daemon.pid), time.monotonic()
        seen = read_for(ages, MEASURE_S)
        share = (cpu_s(daemon.pid) - before_s) / (time.monotonic() - began_s) * 100
        rss, pss = memory_bytes(daemon.pid)
        told = tell_all(host, folder, count)
        return share, rss, pss, max(s[2] for s in seen), max(s[3] for s in seen), told


@contextlib.contextmanager
def farmed(folder: Path, first: int, last: int) -> Iterator[dict[int, int]]:
    """Run a farm during the block; yield numbers by PID."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--farm", str(folder), str(first), str(last)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        yield {pid: int(number) for number, pid in json.loads(child.stdout.readline()).items()}
    finally:
        child.stdin.close()
        child.wait(30)
        child.stdout.close()


def end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def read_for(ages: object, seconds: float) -> list[list[float]]:
    until_s = time.monotonic() + seconds
    seen = []
    while time.monotonic() < until_s:
        seen.append(next_line(ages))
    return seen


def next_line(ages: object) -> list[float]:
    """Return the daemon's next report, skipping its log lines."""
    while line := ages.readline():  # type: ignore[attr-defined]
        if line.startswith("[") and line[1:2].isdigit():
            return [float(value) for value in json.loads(line)]
        print(line, end="", file=sys.stderr)
    raise SystemExit("the daemon has ended")


def wait_until_all(ages: object, count: int) -> None:
    deadline_s = time.monotonic() + 120
    while True:
        looks, words, *_ = next_line(ages)
        if looks == words == count:
            return
        if time.monotonic() > deadline_s:
            raise SystemExit(f"only {looks} of {count} seen, {words} answered")


def tell_all(host: Host, folder: Path, count: int) -> float:
    """Return the worst seconds from the host's shortage until the last agent has its urgency."""
    worst_s = 0.0
    for _ in range(EVENTS):
        host.set_available(HOST_BYTES // 2)
        time.sleep(4 + random.random())
        worst_s = max(worst_s, tell_all_once(host, folder, count))
    return worst_s


def tell_all_once(host: Host, folder: Path, count: int) -> float:
    began_s = time.monotonic()
    host.set_available(HOST_BYTES // 1000)
    while time.monotonic() < began_s + 60:
        heard = struct.unpack(f"{count}d", (folder / "heard").read_bytes()[: 8 * count])
        if all(at_s > began_s for at_s in heard):
            return max(heard, default=began_s) - began_s
        time.sleep(0.05)
    return float("inf")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> tuple[int, int]:
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        words = line.split()
        if words[-1] == "kB":
            sizes[words[0]] = int(words[1]) << 10
    return sizes["Rss:"], sizes["Pss:"]


if __name__ == "__main__":
    main()
