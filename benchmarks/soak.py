"""Run the manager for a simulated day with VMs that come, go, crash, lie and hang; show that nothing grows.

    .venv/bin/python benchmarks/soak.py [--hours 24] [--vms 12] [--json]

The daemon runs completely, with its API, its history and its leases, in a loop with a simulated
clock: when all wait, the clock advances to the next timer. So a day takes minutes, with the same
steps. The VMs are real processes with real RAM; their agents and monitors answer in the same loop,
correctly or not. Each simulated minute some VMs end and others start, and at times the host is
short of memory.

It prints memory, objects, descriptors, threads and files after a warm-up and at the end. It exits
with 1 if one of them has grown by more than its bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import mmap
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/contract/helpers"))

from scripted_guests import GIB, MIB, Host  # noqa: E402
from scripted_vms import BUDDYINFO, MEMINFO, Monitor  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from giveback.host.procs import Process
    from giveback.manager.daemon import Daemon
    from giveback.vmm.base import VmDescription

RAM_BYTES, HELD_BYTES = 64 * MIB, 48 * MIB
AGENTS = ("good", "good", "good", "liar", "mute", "garbage", "flood", "leaves", "crashes")
MONITORS = ("good", "good", "silent", "rubbish", "leaves")
ENDING_A_MINUTE = 2
WARM_UP = 0.25
"""Of the whole time: what is remembered for hours (verdicts, actions, history) has its size by then."""
BOUNDS = {
    "resident_mib": 24.0, "objects": 20_000.0, "blocks": 60_000.0, "descriptors": 16.0, "threads": 1.0,
    "files": 4.0, "children": 0.0,
}  # fmt: skip


class Clock:
    """Monotonic and wall clocks of the process that advance only on request."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waiting_for = 0
        """Calls in threads that have not come back: the clock stands still meanwhile."""
        self._wall_s = time.time()

    def drive(self) -> None:
        """Replace the real clocks until the process ends."""
        time.monotonic = lambda: self.now_s
        time.time = lambda: self._wall_s + self.now_s


class DrivenSelector(selectors.EpollSelector):
    """Wait only for what is in progress; then advance the clock to the next timer."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; if nothing is, advance the clock by the time to wait."""
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None or self._clock.waiting_for:
            return super().select(0.05)
        # All peers of the daemon are in this loop, so nothing else can arrive.
        self._clock.now_s += max(0.0, timeout)
        return []


class DrivenLoop(asyncio.SelectorEventLoop):
    """An event loop with a simulated clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(DrivenSelector(clock))
        self._clock = clock

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ANN401
        func: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
    ) -> asyncio.Future[Any]:
        """Stop the clock while a thread works."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.waiting_for += 1
        future.add_done_callback(self._has_come_back)
        return future

    def _has_come_back(self, future: asyncio.Future[Any]) -> None:
        del future
        self._clock.waiting_for -= 1


# The VMs.


def start_process(listeners: list[socket.socket]) -> int:
    """Fork a process with RAM and these listeners, which does nothing else; return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        kept = {listener.fileno() for listener in listeners}
        for fd in range(256):
            if fd not in kept:
                with contextlib.suppress(OSError):
                    os.close(fd)
        fd = os.memfd_create("ram")
        os.ftruncate(fd, RAM_BYTES)
        ram = mmap.mmap(fd, RAM_BYTES)
        signal.set_wakeup_fd(-1)
        signal.signal(
            signal.SIGUSR1, lambda *_: ram.madvise(mmap.MADV_REMOVE, MIB, HELD_BYTES - MIB)
        )
        signal.signal(
            signal.SIGUSR2, lambda *_: ram.__setitem__(slice(HELD_BYTES), b"1" * HELD_BYTES)
        )
        signal.raise_signal(signal.SIGUSR2)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        while True:
            signal.pause()
    finally:
        os._exit(0)


class Vm:
    """A VM's process, and the answers at its agent's port and its monitor."""

    def __init__(self, folder: Path, number: int, agent: str, monitor: str) -> None:
        self.name = f"vm{number % 40}"
        self.agent, self.monitor = agent, monitor
        self.is_freed = False
        self.paths = (f"{folder}/{number}.a", f"{folder}/{number}.q")
        self._listeners = [socket.socket(socket.AF_UNIX) for _ in self.paths]
        for listener, path in zip(self._listeners, self.paths, strict=True):
            listener.bind(path)
            listener.listen(4)
        self.pid = start_process(self._listeners)
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Start to answer."""
        for listener, serve in zip(
            self._listeners, (self._be_agent, self._be_monitor), strict=True
        ):
            self._servers.append(
                await asyncio.start_unix_server(self._guarded(serve), sock=listener)
            )

    def fill(self) -> None:
        """Use the returned memory again."""
        if self.is_freed:
            self.is_freed = False
            os.kill(self.pid, signal.SIGUSR2)

    def end(self) -> None:
        """Kill the process; its connections end with it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for server in self._servers:
            server.close()
        for client in list(self._clients):
            client.transport.abort()
        for path in self.paths:
            Path(path).unlink(missing_ok=True)

    def _guarded(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._clients.add(writer)
            try:
                await serve(reader, writer)
            except (OSError, ValueError, EOFError, asyncio.CancelledError):
                pass
            finally:
                self._clients.discard(writer)
                writer.transport.abort()

        return served

    async def _be_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"v": 1, "event": "hello", "agent": "scripted", "asks": ["memory"]}\n')
        if self.agent == "leaves":
            return
        if self.agent == "garbage":
            writer.write(b"\xff\xfe\x00 no text\n[[[[[\n" * 100)
        if self.agent == "flood":
            writer.write(b'{"v": 1, "event": "step", "text": "flood"}\n' * 5000)
        count = 0
        while data := await reader.readline():
            if not data.strip() or self.agent == "mute":
                continue
            count += 1
            if self.agent == "crashes" and count > 20:
                return
            writer.write(json.dumps({"v": 1, **self._answer(json.loads(data))}).encode() + b"\n")

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, object]:
        if "urgency" in asked:
            if asked["urgency"] and self.agent == "good":
                self.is_freed = True
                os.kill(self.pid, signal.SIGUSR1)
            kept = {key: asked[key] for key in ("id", "urgency", "lease_s")}
            return {"event": "urgency", **kept}
        free = "53248" if self.is_freed else "9" * 30 if self.agent == "liar" else "32768"
        return {
            "event": "memory", "id": asked["id"], "page_bytes": 4096, "reporting": True, "report_order": 9,
            "meminfo": MEMINFO.replace("32768", free), "buddyinfo": BUDDYINFO, "pcp_bytes": 0,
        }  # fmt: skip

    async def _be_monitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.monitor == "silent":
            await reader.read()
        if self.monitor == "rubbish":
            writer.write(b"{[\n" * 100)
        if self.monitor != "good":
            return
        writer.write(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        while data := await reader.read(65536):
            asked = json.loads(data)
            reply = {"return": Monitor.answers.get(asked["execute"], {}), "id": asked.get("id")}
            writer.write(json.dumps(reply).encode() + b"\r\n")


class Farm:
    """The VMs of the host, and the backend that recognises them by their process ids."""

    name = "qemu"
    layout_taints = False

    def __init__(self, host: Host, count: int, seed: int) -> None:
        from giveback.vmm.backends.qemu import QemuBackend

        self.inspect = QemuBackend().inspect
        self.lives = 0
        self._host, self._count = host, count
        self._chance = random.Random(seed)
        self._vms: dict[int, Vm] = {}

    def recognise(self, process: Process) -> VmDescription | None:
        """Return the VM of a process."""
        from giveback.vmm import base

        vm = self._vms.get(process.pid)
        if vm is None:
            return None
        return base.VmDescription(
            backend="qemu",
            name=vm.name,
            pid=vm.pid,
            ram_bytes=RAM_BYTES,
            ram_blocks=(base.RamBlock("ram", RAM_BYTES, base.Backing.MEMFD, shared=True),),
            capabilities=base.Capabilities(base.Answer.YES, base.Answer.YES),
            channels=(base.Channel(base.ChannelKind.VIRTIO_SERIAL, vm.paths[0], pid=vm.pid),),
            control=vm.paths[1],
        )

    async def change(self) -> None:
        """End some VMs, and start others in their places."""
        ending = self._chance.sample(sorted(self._vms), min(ENDING_A_MINUTE, len(self._vms)))
        for pid in ending:
            self._vms.pop(pid).end()
            self._host.hide(pid)
        while len(self._vms) < self._count:
            self.lives += 1
            agent, monitor = self._chance.choice(AGENTS), self._chance.choice(MONITORS)
            vm = Vm(self._host.folder, self.lives, agent, monitor)
            await vm.open()
            self._vms[vm.pid] = vm
            self._host.show(vm.pid)
        for vm in self._vms.values():
            vm.fill()
        self._host.set_available(int(64 * GIB * self._chance.choice((0.5, 0.5, 0.1, 0.04, 0.015))))

    def end(self) -> None:
        """End all of them."""
        for vm in self._vms.values():
            vm.end()


# What is measured.


@dataclass(frozen=True)
class Figures:
    """The resources that this process holds."""

    resident_mib: float
    objects: float
    blocks: float
    descriptors: float
    threads: float
    files: float
    children: float


def figures(folder: Path) -> Figures:
    """Measure this process, and the files below a folder that are not the VMs' own."""
    gc.collect()
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1]
    files = [path for path in folder.rglob("*") if path.suffix not in (".a", ".q")]
    children = Path("/proc/self/task").glob("*/children")
    return Figures(
        resident_mib=round(int(status.split()[0]) / 1024, 1),
        objects=len(gc.get_objects()),
        blocks=sys.getallocatedblocks(),
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        threads=threading.active_count(),
        files=sum(not path.is_relative_to(folder / "root") for path in files),
        children=sum(len(path.read_text().split()) for path in children),
    )


async def request(path: Path, method: str, resource: str, body: bytes = b"") -> None:
    """Send a request to the daemon's API, and read its answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    head = f"{method} {resource} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.read()
    writer.close()


@contextlib.asynccontextmanager
async def running(host: Host, farm: Farm) -> AsyncIterator[Daemon]:
    """Run a complete daemon by this loop's clock."""
    from giveback.manager.daemon import Daemon
    from giveback.manager.devices.fallback import Fallbacks
    from giveback.manager.history.recorder import History
    from giveback.manager.history.usage.readable import ReadableHistory
    from giveback.manager.http.server import Endpoint, serving

    settings = host.settings('[host]\ncalm_for = "30s"\n')
    settings.state.mkdir()
    history = History(str(settings.state / "history.db"), 8 << 20)
    fallbacks = Fallbacks(settings.state)
    backends: Any = [farm]
    daemon = Daemon(
        settings, recorder=history, fallbacks=fallbacks, root=str(host.root), backends=backends
    )
    endpoint = Endpoint(
        socket_path=str(settings.socket), history=lambda: ReadableHistory.of(history.path, settings)
    )
    async with serving(daemon, endpoint):
        task = asyncio.create_task(daemon.run())
        try:
            yield daemon
        finally:
            daemon.stop()
            await task
            history.close()


async def soak(folder: Path, hours: float, count: int, seed: int) -> dict[str, Any]:
    """Run for `hours` simulated hours; return the figures and what was done."""
    host = Host(folder, 64 * GIB)
    farm = Farm(host, count, seed)
    began_s, minutes = time.monotonic(), max(4, round(hours * 60))
    first = None
    try:
        async with running(host, farm) as daemon:
            for minute in range(minutes):
                await farm.change()
                socket_path = daemon.settings.socket
                await request(
                    socket_path, "GET", ("/v1/status", "/metrics", "/v1/history")[minute % 3]
                )
                body = b'{"goal_bytes": 1048576, "within_s": 5}'
                await request(socket_path, "POST", "/v1/reclaim", body)
                await asyncio.sleep(began_s + 60.0 * (minute + 1) - time.monotonic())
                if first is None and minute >= minutes * WARM_UP:
                    first = figures(folder)
            last = figures(folder)
            errors, actions = dict(daemon.fleet.errors.counts), len(daemon.fleet.actions)
    finally:
        farm.end()
    hours_done = (time.monotonic() - began_s) / 3600
    cycles = int(hours_done * 3600 / 0.25)
    return {
        "hours": round(hours_done, 2), "cycles": cycles, "vms": count, "lives": farm.lives,
        "errors": errors, "actions": actions, "first": asdict(first or last), "last": asdict(last),
    }  # fmt: skip


def grown(found: Mapping[str, Any]) -> list[str]:
    """Return what has grown by more than its bound."""
    return [
        f"{name}: {found['first'][name]:,} → {found['last'][name]:,}, more than {bound:,} above"
        for name, bound in BOUNDS.items()
        if found["last"][name] - found["first"][name] > bound
    ]


def main() -> int:
    """Soak, and print the figures at the beginning and at the end; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--hours", type=float, default=24.0, help="simulated (default: %(default)s)"
    )
    parser.add_argument("--vms", type=int, default=12, help="at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    from giveback.manager import logs

    logs.set_up(Path(os.devnull).open("w"), "error")  # noqa: SIM115
    real_s, clock = time.perf_counter(), Clock()
    clock.drive()
    with tempfile.TemporaryDirectory(prefix="giveback-soak-") as name:
        loop = DrivenLoop(clock)
        found = loop.run_until_complete(soak(Path(name), args.hours, args.vms, args.seed))
        loop.close()
    found |= {"took_s": round(time.perf_counter() - real_s, 1), "grown": grown(found)}
    if args.json:
        print(json.dumps(found))
    else:
        print(f"{found['hours']} h simulated in {found['took_s']} s, {found['cycles']:,} cycles, "
              f"{found['lives']} VMs, {found['vms']} at a time")  # fmt: skip
        print(f"{'':>14} {'first':>12} {'last':>12}")
        for key in BOUNDS:
            print(f"{key:>14} {found['first'][key]:>12,} {found['last'][key]:>12,}")
        print("\n".join(found["grown"]) or "nothing has grown")
    return 1 if found["grown"] else 0


if __name__ == "__main__":
    sys.exit(main())
