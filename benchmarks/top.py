"""Measure `giveback top` with many VMs: what it takes of a core, and how long a redraw takes.

    .venv/bin/python benchmarks/top.py [VMS ...] [--seconds 30]     (200 1000)

A process serves the daemon's API with that many VMs, whose amounts all change each second. The command
runs on a terminal of 120 x 40 cells for `--seconds`; its CPU time is the kernel's count of its process,
without the start. Then, in this process, the same application redraws for a snapshot in which all
amounts and the order changed, and for a key that moves the cursor. Each time is from the snapshot, or
the key, until the application has nothing left to do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import pty
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/unit/helpers"), str(ROOT / "tests/contract/helpers")]

from manager_samples import GIB, MIB, action, status, vm_status  # noqa: E402

from giveback.top.from_status import snapshot_of  # noqa: E402
from giveback.top.order import TopView  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.manager.model import DaemonStatus

SIZE = (120, 40)
SETTLE_S = 3.0
DEADLINE_S = 60.0
REDRAWS = 60


def host_of(count: int, turn: int) -> DaemonStatus:
    """Return a daemon's status; each turn all amounts differ."""
    draw = random.Random(turn)
    vms = [
        vm_status(
            f"vm-{number:04}", 1000 + number, ram_bytes=8 * GIB, uid=0,
            resident_bytes=draw.randrange(1 * GIB, 8 * GIB),
            in_use_bytes=draw.randrange(GIB // 2, 2 * GIB), cache_bytes=draw.randrange(2 * GIB),
            residue_bytes=draw.randrange(2 * GIB), returned_bytes=draw.randrange(2 * GIB),
        )
        for number in range(count)
    ]  # fmt: skip
    actions = tuple(action(at, vm.key, measured_bytes=at * MIB) for at, vm in enumerate(vms[:200]))
    return status(*vms, wall_s=time.time(), started_wall_s=time.time() - 60, actions=actions)


def serve(socket_path: str, count: int) -> None:
    """Serve the API until killed."""
    from scripted_manager import ScriptedManager, running

    from giveback.manager.http.server import Endpoint

    turns = [host_of(count, turn) for turn in range(4)]
    with running(Endpoint(socket_path=socket_path), ScriptedManager(turns[0])) as daemon:
        print("ready", flush=True)
        turn = 0
        while True:
            time.sleep(1.0)
            turn += 1
            daemon.manager.now = turns[turn % len(turns)]


@contextlib.contextmanager
def served(folder: str, count: int) -> Iterator[str]:
    socket_path = f"{folder}/api-{count}.sock"
    command = [sys.executable, __file__, "--serve", socket_path, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield socket_path
        finally:
            process.kill()


def cpu_of_a_core(socket_path: str, seconds: float) -> tuple[float, int]:
    """Return the fraction of a core that the command takes on a terminal, and its resident bytes."""
    command = [sys.executable, "-m", "giveback", "top", "--socket", socket_path]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, command)  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))

    is_live = threading.Event()

    def drain() -> None:
        text = b""
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 1 << 16):
                text = (text + data)[-(1 << 17) :]
                if b" VMs " in text:
                    is_live.set()

    threading.Thread(target=drain, daemon=True).start()
    if not is_live.wait(DEADLINE_S):
        raise SystemExit(f"top showed no VMs in {DEADLINE_S:.0f} s")
    time.sleep(SETTLE_S)
    before_s, began_s = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    part = (cpu_s(pid) - before_s) / (time.monotonic() - began_s)
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    return part, resident


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in words[11:13]) / os.sysconf("SC_CLK_TCK")


Spent = tuple[float, float]
"""Seconds on the clock, and of CPU time."""


class Silent:
    """A source that is asked once."""

    label = "benchmark"

    def __init__(self, first: object) -> None:
        self._first = first
        self._asked = threading.Event()

    def next(self) -> object:
        if self._first is None:
            self._asked.wait()
        first, self._first = self._first, None
        return first

    def close(self) -> None:
        self._asked.set()


async def redraws(count: int) -> tuple[list[Spent], list[Spent]]:
    """Return what redraws by a new snapshot took, and those by a moved cursor."""
    from giveback.errors import InputError
    from giveback.top.ui.app import TopApp
    from giveback.top.ui.table import VmTable

    def none() -> object:
        raise InputError("no history")

    snapshots = [snapshot_of(host_of(count, turn)) for turn in range(8)]
    app = TopApp(Silent(snapshots[0]), TopView(), none)  # type: ignore[arg-type]
    by_snapshot: list[Spent] = []
    by_key: list[Spent] = []
    async with app.run_test(size=SIZE) as pilot:
        while app.shown is None:
            await pilot.pause()
        table = app.query_one(VmTable)
        for turn in range(REDRAWS):
            with spent(by_snapshot):
                app.take(snapshots[turn % len(snapshots)])
                await pilot.pause()
            with spent(by_key):
                table.action_move(1)
                await pilot.pause()
    return by_snapshot, by_key


@contextlib.contextmanager
def spent(found: list[Spent]) -> Iterator[None]:
    wall_s, cpu_time_s = time.perf_counter(), time.process_time()
    yield
    found.append((time.perf_counter() - wall_s, time.process_time() - cpu_time_s))


def shown(found: list[Spent]) -> str:
    parts = []
    for times in zip(*found, strict=True):
        ordered = sorted(times)
        values = (statistics.median(ordered), ordered[len(ordered) * 95 // 100], ordered[-1])
        parts.append(" / ".join(f"{value * 1000:.0f}" for value in values))
    return f"{parts[0]} ms | {parts[1]} ms"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("counts", nargs="*", type=int, default=[200, 1000])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--serve", nargs=2, metavar=("SOCKET", "VMS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print("Times are median / 95 % / most.")
    print("| VMs | of a core | resident | redraw | its CPU time | key | its CPU time |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="giveback-top-") as folder:
        for count in args.counts:
            with served(folder, count) as socket_path:
                part, resident = cpu_of_a_core(socket_path, args.seconds)
            by_snapshot, by_key = asyncio.run(redraws(count))
            print(
                f"| {count} | {part:.1%} | {resident / MIB:.0f} MiB | {shown(by_snapshot)} "
                f"| {shown(by_key)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
