"""Boot two real VMs, run the same work in both, and show which one gives its memory back.

The plain VM has neither page reporting nor an agent; the other has both. A live chart shows the
resident memory of each; at the end there are a table, pictures, a page to pass on, and every sample.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from giveback.errors import InputError
from giveback.lab.accel import CHOICES
from giveback.lab.demo import DemoOptions, check_host, run_demo
from giveback.lab.interrupts import run_interruptible
from giveback.lab.units import parse_size
from giveback.report.run import DemoRun
from giveback.report.terminal import LiveChart

HELP = "see a real VM grow and give its memory back, beside one that does not"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """The demo's options; everything has a default that works."""
    parser.add_argument("--accel", choices=CHOICES, default="auto", help="default: %(default)s")
    parser.add_argument("--mem", default="2G", metavar="SIZE", help="RAM of each VM (default: %(default)s)")
    parser.add_argument("--cpus", type=int, metavar="N", help="of each VM (default: a fair share of the host's)")
    parser.add_argument(
        "--kernel", metavar="PATH", help="a kernel image with modules in /lib/modules, or a series such as 6.1"
    )
    parser.add_argument("--qemu", type=Path, metavar="PATH", help="the qemu-system-x86_64 to use")
    parser.add_argument("--no-compare", action="store_true", help="only the VM with giveback")
    parser.add_argument(
        "--out", type=Path, default=Path("giveback-demo"), metavar="DIR", help="for the pictures (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the work (default: %(default)s)")


def options_of(args: argparse.Namespace) -> DemoOptions:
    """The parsed command line as options. Raises InputError."""
    if args.cpus is not None and not 1 <= args.cpus <= 64:
        raise InputError(f"--cpus {args.cpus}: must be 1 to 64")
    return DemoOptions(
        mem_bytes=parse_size(args.mem, "--mem"), cpus=args.cpus, accel=args.accel, kernel=args.kernel,
        qemu=args.qemu, compare=not args.no_compare, out=args.out, seed=args.seed,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the demo and write its files; returns 0."""
    options = options_of(args)
    check_host(options)
    if args.json is not None:
        _check_writable(args.json)
    console = Console()
    # Below the chart there is one line of status; what came before it scrolls away above.
    status = [""]

    def say(line: str) -> None:
        status[0] = line
        console.print(line, markup=False, highlight=False)

    with LiveChart(console) as chart:
        measured = run_interruptible(
            run_demo(options, say, lambda demo: chart.update(demo, status[0]))
        )
    _report(measured, console, options.out, args.json)
    return 0


def _report(measured: DemoRun, console: Console, out: Path, json_file: Path | None) -> None:
    # Drawing is slow to import and only wanted once the work is over.
    from giveback.report.figure import write_png, write_svg
    from giveback.report.page import write_page
    from giveback.report.run_json import to_json
    from giveback.report.table import print_report

    print_report(measured, console)
    write_png(measured, out / "demo.png")
    write_svg(measured, out / "demo.svg")
    write_page(measured, out / "demo.html", command=" ".join(["giveback", *sys.argv[1:]]))
    (out / "demo.json").write_text(to_json(measured))
    if json_file is not None:
        json_file.write_text(to_json(measured))
    console.print(f"\nwritten: {out}/demo.html, demo.png, demo.svg, demo.json", markup=False, highlight=False)


def _check_writable(path: Path) -> None:
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise InputError(f"--json {path}: {error.strerror}: choose a file that can be written") from error
