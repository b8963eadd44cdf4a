"""Two real VMs on a small host, and a hog that wants more than is free: with the manager and without.

The small host is a memory cgroup around the VMs and the hog. Each way runs on VMs of its own: `manager`
(agents in the guests, `giveback daemon` on the host), `agents` (the same without a daemon) and `none`
(free page reporting alone). With --swap FILE's size the host swaps where it would otherwise kill.
Run as root: `python benchmarks/pressure.py [--ways manager,none] [--swap 2G] [--out FOLDER]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from giveback.lab.accel import choose_accel
from giveback.lab.demo import prepare_lab
from giveback.lab.pressure import (
    PressureOptions,
    PressureRun,
    as_json,
    run_pressure,
)
from giveback.lab.pressure_daemon import daemon
from giveback.lab.units import parse_size
from giveback.lab.vm import MIB

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = {
    "manager": "agents, and giveback daemon on the host",
    "agents": "agents in the guests, no daemon",
    "none": "free page reporting alone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", default="manager,none")
    parser.add_argument("--swap", default="")
    parser.add_argument("--out", type=Path, default=Path("giveback-pressure"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with swap_of(args.swap):
        runs = asyncio.run(run_all(args.ways.split(",")))
    swap = f", {args.swap} of swap" if args.swap else ", no swap"
    for way, run in runs.items():
        (args.out / f"{way}.json").write_text(as_json(run))
    text = table(runs)
    print(f"two VMs of {next(iter(runs.values())).options.ram_bytes // MIB} MiB{swap}\n{text}")
    (args.out / "table.txt").write_text(text + "\n")
    draw(runs, args.out / "pressure.png", swap)


async def run_all(ways: list[str]) -> dict[str, PressureRun]:
    lab = prepare_lab(None, None, print)
    accel = await choose_accel("auto", lab.image, lab.emulator)
    found = {}
    for way in ways:
        print(f"{way}: {WAYS[way]}", flush=True)
        options = PressureOptions(agents=way != "none")
        manager = daemon if way == "manager" else None
        found[way] = await run_pressure(options, lab, accel, manager, print)
    return found


@contextlib.contextmanager
def swap_of(size: str) -> Iterator[None]:
    """A swap file of this size for as long as the context lasts; '' is none."""
    if not size:
        yield
        return
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="giveback-swap-") as file:
        # Written, not only reserved: the kernel swaps to no file with holes.
        for _ in range(parse_size(size, "--swap") // MIB):
            file.write(bytes(MIB))
        file.flush()
        subprocess.run(["mkswap", file.name], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", file.name], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", file.name], check=True)


def table(runs: dict[str, PressureRun]) -> str:
    """One row a way."""
    head = ["", "hog", "hog took s", "OOM kills", "VMs lost", "VM swap MiB", "back MiB",
            "least avail. MiB", "work done less %", "a unit longer %", "unit ms before"]  # fmt: skip
    rows = [head]
    for way, run in runs.items():
        names = run.options.names
        slower = [run.slowdown(name) for name in names]
        less = [run.less_done(name) for name in names]
        before = [run.median_s(name) for name in names]
        rows.append([
            way, run.hog_ended, "-" if run.hog_took_s is None else f"{run.hog_took_s:.1f}",
            str(run.oom_kills), str(len(run.ended)), str(run.vm_swap_bytes // MIB),
            str(run.returned_bytes() // MIB), str(run.least_available_bytes // MIB),
            " / ".join("-" if s is None else f"{100 * s:.1f}" for s in less),
            " / ".join("-" if s is None else f"{100 * s:.1f}" for s in slower),
            " / ".join("-" if s is None else f"{1000 * s:.1f}" for s in before),
        ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def draw(runs: dict[str, PressureRun], path: Path, title: str) -> None:
    """Memory above, the guests' work below, a column a way."""
    figure, axes = plt.subplots(
        2, len(runs), figsize=(6.5 * len(runs), 7), sharex="col", sharey="row", squeeze=False,
        height_ratios=(2, 1),
    )  # fmt: skip
    for column, (way, run) in enumerate(runs.items()):
        top, bottom = axes[0][column], axes[1][column]
        times = [look.t_s for look in run.looks]
        layers = [[look.resident_bytes[n] / MIB for look in run.looks] for n in run.options.names]
        hog = [look.hog_bytes / MIB for look in run.looks]
        labels = [f"VM {n}, resident" for n in run.options.names]
        top.stackplot(times, *layers, hog, labels=[*labels, "hog"],
                      colors=["#4477aa", "#66ccee", "#ee6677"], alpha=0.8)  # fmt: skip
        available = [look.host.available_bytes / MIB for look in run.looks]
        top.plot(times, available, color="black", label="available to the host")
        swapped = [sum(look.host.group_swap_bytes[n] for n in run.options.names) / MIB
                   for look in run.looks]  # fmt: skip
        top.plot(times, swapped, color="#aa3377", linestyle="--", label="of the VMs, in swap")
        top.axhline(run.options.limit_bytes / MIB, color="grey", linewidth=0.8)
        top.set_title(f"{WAYS[way]}\nthe hog {run.hog_ended}", fontsize=10)
        for end_s in run.ended.values():
            top.axvline(end_s, color="red")
            top.annotate("a VM is killed", (end_s, 100), color="red", fontsize=9)
        for name, color in zip(run.options.names, ("#4477aa", "#66ccee"), strict=True):
            units = run.units.get(name, [])
            bottom.plot([at for at, _ in units], [1000 * took for _, took in units], ".",
                        markersize=2, color=color)  # fmt: skip
        bottom.set_yscale("log")
        bottom.set_xlabel("seconds from the hog's begin")
    axes[0][0].set_ylabel("MiB")
    axes[1][0].set_ylabel("ms a unit of work")
    axes[0][0].legend(fontsize=8, loc="upper left")
    figure.suptitle(f"Two VMs on a small host{title}")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
