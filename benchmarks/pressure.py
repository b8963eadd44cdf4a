"""Run two real VMs on a small host with a hog that wants more than is free, with and without the manager.

    .venv/bin/python benchmarks/pressure.py [--ways manager,none,none+swap] [--out FOLDER]     (as root)

The small host is a memory cgroup around the VMs and the hog. Each way runs on new VMs: `manager`
(agents in the guests, `giveback daemon` on the host), `agents` (the same without a daemon) and
`none` (free page reporting alone). `+swap` gives the host 1 GiB of swap for that run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from giveback_kernel.units import MIB
from giveback_lab.pressure.daemon import daemon
from giveback_lab.pressure.pressure import PressureOptions, PressureRun, as_json, run_pressure
from giveback_lab.vms.accel import choose_accel
from giveback_lab.vms.lab import prepare_lab

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

SWAP_BYTES = 1 << 30
WAYS = {
    "manager": "agents, and giveback daemon on the host",
    "agents": "agents in the guests, no daemon",
    "none": "free page reporting alone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", default="manager,none,none+swap")
    parser.add_argument("--out", type=Path, default=Path("giveback-pressure"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # So that a swap file and the cgroup do not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asyncio.run(run_all(args.ways.split(","), args.out))


async def run_all(ways: list[str], out: Path) -> None:
    lab = prepare_lab(None, None, print)
    accel = await choose_accel("auto", lab.image, lab.emulator)
    runs = {}
    for way in ways:
        print(f"{words_of(way)} (load {os.getloadavg()[0]:.1f})", flush=True)
        kind = way.partition("+")[0]
        options = PressureOptions(agents=kind != "none")
        manager = partial(daemon, keep=out) if kind == "manager" else None
        with swap(SWAP_BYTES if way.endswith("+swap") else 0):
            run = runs[way] = await run_pressure(options, lab, accel, manager, print)
        (out / f"{way}.json").write_text(as_json(run))
        text = table(runs)
        print(text, flush=True)
        (out / "table.txt").write_text(text + "\n")
        draw(runs, out / "pressure.png")


def words_of(way: str) -> str:
    kind, _, swap_word = way.partition("+")
    return f"{WAYS[kind]}, {'with' if swap_word else 'no'} swap"


@contextlib.contextmanager
def swap(size_bytes: int) -> Iterator[None]:
    """Use a swap file of this size during the block; 0 means none."""
    if not size_bytes:
        yield
        return
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="giveback-swap-") as file:
        # Written, not only reserved: the kernel does not swap to a file with holes.
        for _ in range(size_bytes // MIB):
            file.write(bytes(MIB))
        file.flush()
        subprocess.run(["mkswap", file.name], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", file.name], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", file.name], check=True)


def table(runs: dict[str, PressureRun]) -> str:
    """Return one row per way."""
    head = ["", "hog", "took s", "OOM kills", "VMs lost", "VM swap MiB", "back MiB",
            "least avail. MiB", "work done less %", "a unit longer %", "unit ms before"]  # fmt: skip
    rows = [head]
    for way, run in runs.items():
        names = run.options.names
        rows.append([
            way, run.hog_ended, "-" if run.hog_took_s is None else f"{run.hog_took_s:.1f}",
            str(run.oom_kills), str(len(run.ended)), str(run.vm_swap_bytes // MIB),
            str(run.returned_bytes() // MIB), str(run.least_available_bytes // MIB),
            numbers([run.less_done(name) for name in names], 100),
            numbers([run.slowdown(name) for name in names], 100),
            numbers([run.median_s(name) for name in names], 1000),
        ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def numbers(values: list[float | None], times: float) -> str:
    return " / ".join("-" if value is None else f"{times * value:.1f}" for value in values)


def draw(runs: dict[str, PressureRun], path: Path) -> None:
    """Draw memory above and the guests' workload below, one column per way."""
    figure, axes = plt.subplots(
        2, len(runs), figsize=(5.5 * len(runs), 7), sharex="col", sharey="row", squeeze=False,
        height_ratios=(2, 1),
    )  # fmt: skip
    for column, (way, run) in enumerate(runs.items()):
        draw_memory(axes[0][column], run)
        axes[0][column].set_title(f"{words_of(way)}\nthe hog {run.hog_ended}", fontsize=10)
        bottom = axes[1][column]
        for name, color in zip(run.options.names, ("#4477aa", "#66ccee"), strict=True):
            units = run.units.get(name, [])
            bottom.plot([at for at, _ in units], [1000 * took for _, took in units], ".",
                        markersize=2, color=color)  # fmt: skip
        bottom.set_yscale("log")
        bottom.set_xlabel("seconds from the hog's begin")
    axes[0][0].set_ylabel("MiB")
    axes[1][0].set_ylabel("ms a unit of work")
    axes[0][0].legend(fontsize=8, loc="upper left")
    options = next(iter(runs.values())).options
    limit, ram = options.limit_bytes // MIB, options.ram_bytes // MIB
    figure.suptitle(f"Two VMs of {ram} MiB and a hog on a host of {limit} MiB")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_memory(axes: Axes, run: PressureRun) -> None:
    times = [one.t_s for one in run.samples]
    names = run.options.names
    layers = [[one.resident_bytes[n] / MIB for one in run.samples] for n in names]
    layers.append([one.hog_bytes / MIB for one in run.samples])
    labels = [*(f"VM {n}, resident" for n in names), "hog"]
    axes.stackplot(
        times, *layers, labels=labels, colors=["#4477aa", "#66ccee", "#ee6677"], alpha=0.8
    )
    available = [one.host.available_bytes / MIB for one in run.samples]
    axes.plot(times, available, color="black", label="available to the host")
    in_swap = [sum(one.host.group_swap_bytes[n] for n in names) / MIB for one in run.samples]
    axes.plot(times, in_swap, color="#aa3377", linestyle="--", label="of the VMs, in swap")
    axes.axhline(run.options.limit_bytes / MIB, color="grey", linewidth=0.8)
    for end_s in run.ended.values():
        axes.axvline(end_s, color="red")
        axes.annotate("a VM is killed", (end_s, 100), color="red", fontsize=9)


if __name__ == "__main__":
    main()
