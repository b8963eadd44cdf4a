"""Measure what `giveback ps` costs on a host with many VMs: wall and CPU time, and per VM.

    .venv/bin/python benchmarks/ps.py [VMS ...]     (1 25 50 100)

The VMs are real small processes with QEMU's name, command line and a RAM mapping; another process
answers for their monitors and agents at once.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/contract/helpers"))

from scripted_vms import vm  # noqa: E402

RUNS = 7


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [1, 25, 50, 100]
    print(
        f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; median (least) of {RUNS} runs"
    )
    print(f"{'VMs':>5} {'wall s':>16} {'CPU s':>16} {'CPU ms a VM':>12}")
    start_s: float | None = None
    # Compiled once, as an installed program is, and not into the source tree.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        environment["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        for running, wanted in zip([0, *sorted(counts)], sorted(counts), strict=False):
            for number in range(running, wanted):
                stack.enter_context(vm(Path(folder), f"vm{number}"))
            walls_s, cpus_s = measured(wanted, environment)
            cpu_s = statistics.median(cpus_s)
            start_s = cpu_s if start_s is None else start_s
            each = (cpu_s - start_s) / max(1, wanted - min(counts)) * 1000
            print(f"{wanted:>5} {shown(walls_s)} {shown(cpus_s)} {each:>12.2f}", flush=True)


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):>8.3f} ({min(seconds):.3f})"


def measured(wanted: int, environment: dict[str, str]) -> tuple[list[float], list[float]]:
    """Return wall and CPU seconds of `ps`; a first run, which compiles, is not counted."""
    found = [once(environment) for _ in range(RUNS + 1)][1:]
    for _, _, rows in found:
        if rows < wanted:
            raise SystemExit(f"ps answered for {rows} of {wanted} VMs")
    return [wall_s for wall_s, _, _ in found], [cpu_s for _, cpu_s, _ in found]


def once(environment: dict[str, str]) -> tuple[float, float, int]:
    started_s = time.monotonic()
    command = [sys.executable, "-m", "giveback", "ps", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    with child.stdout or contextlib.nullcontext() as stream:
        out = stream.read() if stream else b""
    _, _, usage = os.wait4(child.pid, 0)
    child.returncode = 0
    wall_s = time.monotonic() - started_s
    return wall_s, usage.ru_utime + usage.ru_stime, out.count(b'"source": "agent"')


if __name__ == "__main__":
    main()
