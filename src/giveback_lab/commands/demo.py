"""Boot two real VMs, run the same workload in both, and show which one returns its memory.

The plain VM has neither page reporting nor an agent; the other has both. A live chart shows the
resident memory of each. At the end there are a table, pictures, a page to pass on, and all samples.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from giveback.arguments import bounded, size_of
from giveback.errors import InputError
from giveback.interrupts import run_interruptible
from giveback_kernel.errors import GivebackError
from giveback_lab.demo.demo import DemoOptions, check_host, run_demo
from giveback_lab.demo.recorder import SILENCE_LIMIT_S
from giveback_lab.report.terminal import LiveChart
from giveback_lab.vms.accel import CHOICES
from giveback_lab.vms.lab import GUESTS, MACHINES, SMALL, guest_kind, prepare_lab

if TYPE_CHECKING:
    from giveback_lab.report.run import DemoRun

HELP = "watch a real VM grow and return its memory, beside one that does not"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options; every option has a default that works."""
    add = parser.add_argument
    add("--accel", choices=CHOICES, default="auto", help="default: %(default)s")
    add("--mem", default="2G", metavar="SIZE", help="RAM of each VM (default: %(default)s)")
    add(
        "--cpus",
        type=int,
        metavar="N",
        help="CPUs of each VM (default: its part of the host's, up to 4)",
    )
    add("--kernel", metavar="PATH", help="a kernel image with modules in /lib/modules, or a series")
    add("--guest", choices=GUESTS, default=SMALL, help="default: %(default)s")
    add("--arch", choices=tuple(MACHINES), help="the guest's machine (default: the host's)")
    add("--qemu", type=Path, metavar="PATH", help="the qemu-system-x86_64 to use")
    add("--no-compare", action="store_true", help="only the VM with giveback")
    add("--watch", type=float, default=90.0, metavar="S",
        help="seconds to watch after the workload (default: %(default).0f)")  # fmt: skip
    add("--out", type=Path, default=Path("giveback-demo"), metavar="DIR",
        help="folder for the results (default: %(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add("--seed", type=int, default=1, metavar="N", help="of the workload (default: %(default)s)")
    # For tests: a smaller workload, and shorter limits.
    add("--scale", type=float, default=1.0, help=argparse.SUPPRESS)
    add("--silence-limit", type=float, default=SILENCE_LIMIT_S, help=argparse.SUPPRESS)


def options_of(args: argparse.Namespace) -> DemoOptions:
    """Convert the parsed command line to options. Raises InputError."""
    if args.cpus is not None:
        bounded(args.cpus, "--cpus", 1, 64)
    return DemoOptions(
        mem_bytes=size_of(args.mem, "--mem"), cpus=args.cpus, accel=args.accel,
        kernel=args.kernel, kind=guest_kind(args.guest, args.arch), qemu=args.qemu,
        compare=not args.no_compare, out=args.out,
        seed=args.seed, watch_s=bounded(args.watch, "--watch", 0, 3600, " seconds"),
        scale=bounded(args.scale, "--scale", 0.01, 1), silence_limit_s=args.silence_limit,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the demo and write its files; return 0."""
    options = options_of(args)
    check_host(options)
    if args.json is not None:
        _check_writable(args.json)
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    lab = prepare_lab(options.kernel, options.qemu, say, options.kind)
    with LiveChart(console) as chart:
        measured = run_interruptible(
            run_demo(options, say, lambda demo: chart.update(demo, doing(demo)), lab)
        )
    try:
        _report(measured, console, options.out, args.json)
    except OSError as error:
        raise GivebackError(f"{error.filename or options.out}: {error.strerror}") from error
    return 0


def doing(demo: DemoRun) -> str:
    """Return what currently happens in the VMs, for the line below the chart."""
    phases = {vm.name: vm.work_phases[-1].name for vm in demo.vms if vm.work_phases}
    at_work = [
        f"{vm.name} {phases[vm.name]}"
        for vm in demo.vms
        if vm.name in phases and vm.work_end_s is None
    ]
    if at_work:
        return f"running: {', '.join(at_work)}"
    return (
        "the workload has ended, watching" if phases else "the VMs are up, the workload begins soon"
    )


def _report(measured: DemoRun, console: Console, out: Path, json_file: Path | None) -> None:
    # Drawing is slow to import and only needed once the workload has ended.
    from giveback_lab.report.figure import write_png, write_svg  # noqa: PLC0415
    from giveback_lab.report.page import write_page  # noqa: PLC0415
    from giveback_lab.report.run_json import to_json  # noqa: PLC0415
    from giveback_lab.report.table import print_report  # noqa: PLC0415

    # Write first what cannot be made again: the measurements.
    (out / "demo.json").write_text(to_json(measured))
    if json_file is not None:
        json_file.write_text(to_json(measured))
    print_report(measured, console)
    write_png(measured, out / "demo.png")
    write_svg(measured, out / "demo.svg")
    write_page(measured, out / "demo.html", command=" ".join(["giveback", *sys.argv[1:]]))
    line = f"\nwritten: {out}/demo.html, demo.png, demo.svg, demo.json"
    console.print(line, markup=False, highlight=False)


def _check_writable(path: Path) -> None:
    was_there = path.exists()
    try:
        with path.open("a"):
            pass
        if not was_there:
            path.unlink()
    except OSError as error:
        raise InputError(
            f"--json {path}: {error.strerror}: choose a file that can be written"
        ) from error
