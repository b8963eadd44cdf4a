"""Measure what the host's commands cost with two live VMs, cold: a new process each time, bytecode compiled.

    .venv/bin/python benchmarks/commands.py [--runs 7] [--against DIR]

One VM has an agent that answers at once. The other is a paused QEMU with the agent's port and no
process in the guest, so a command may wait there until its deadline. With DIR, another source tree,
the runs of both trees alternate, and ratios are printed. Other VMs of the host count in `ps` and
`doctor`: as root, `unshare -p -f --mount-proc` hides them.
"""

from __future__ import annotations

import argparse
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

from real_qemu import running  # noqa: E402
from scripted_vms import vm  # noqa: E402

WANTED_S = {"--help": 0.15, "ps": 0.5, "explain one": 1.5, "explain two": 1.5, "doctor": 1.5}
"""By command line: what an operator was promised, on the machine where they took three times as long."""
PORT = [
    "-m", "64M", "-name", "two", "-device", "virtio-balloon-pci,free-page-reporting=on",
    "-device", "virtio-serial-pci", "-chardev", "socket,id=c,path={dir}/agent,server=on,wait=off",
    "-device", "virtserialport,chardev=c,name=org.giveback.agent.0",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--against", type=Path, metavar="DIR", help="the `src` of another tree")
    args = parser.parse_args()
    trees = [ROOT / "src", *([args.against] if args.against else [])]
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; {args.runs} runs")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(vm(Path(folder), "one"))
        stack.enter_context(running(Path(folder), *PORT))
        for words, wanted_s in WANTED_S.items():
            report(words, wanted_s, measured(words, trees, args.runs, folder))


def measured(words: str, trees: list[Path], runs: int, folder: str) -> list[list[float]]:
    """Return the seconds of each run, by tree.

    The trees alternate. A first run, which compiles, is not counted.
    """
    found: list[list[float]] = [[] for _ in trees]
    for _ in range(runs + 1):
        for number, tree in enumerate(trees):
            found[number].append(once(words, tree, f"{folder}/bytecode{number}"))
    return [seconds[1:] for seconds in found]


def once(words: str, tree: Path, bytecode: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": bytecode}
    command = [sys.executable, "-m", "giveback", *words.split()]
    started_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    wall_s = time.monotonic() - started_s
    # doctor exits with 1 if it finds something.
    if done.returncode not in (0, 1):
        raise SystemExit(f"{words}: {done.stderr.decode()}")
    return wall_s


def report(words: str, wanted_s: float, found: list[list[float]]) -> None:
    medians_s = [statistics.median(seconds) for seconds in found]
    text = f"{words:<12} {medians_s[0]:>7.3f} s (least {min(found[0]):.3f}; wanted {wanted_s:g})"
    if len(found) > 1:
        text += f"; the other tree {medians_s[1]:.3f} s: ratio {medians_s[0] / medians_s[1]:.2f}"
    print(text, flush=True)


if __name__ == "__main__":
    main()
