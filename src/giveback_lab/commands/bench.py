"""Measure every way to return a VM's memory on the same workload, side by side, on this machine.

Every cell (one strategy, one workload, one round) runs in new real VMs. The strategies alternate
within a round. Each finished cell is kept in OUT/cells: run the same command again to continue. At
the end the command writes a page, figures and tables into OUT.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from giveback.arguments import bounded, size_of
from giveback.errors import InputError
from giveback.interrupts import run_interruptible
from giveback_kernel.errors import GivebackError
from giveback_kernel.meminfo import read_meminfo
from giveback_lab.bench import works
from giveback_lab.bench.run.cell import CellSetting
from giveback_lab.bench.run.plan import Wish, plan
from giveback_lab.bench.run.runner import CellJob, run_all, run_in_time, to_do
from giveback_lab.bench.run.store import Store
from giveback_lab.bench.strategies import STRATEGIES, named
from giveback_lab.demo.demo import MIN_MEM_BYTES
from giveback_lab.images.kernels import check_kernel_name, default_series
from giveback_lab.vms.accel import CHOICES, choose_accel
from giveback_lab.vms.lab import DISTRIBUTION, GUESTS, MACHINES, SMALL, guest_kind, prepare_lab

if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

    import argparse
    from collections.abc import Sequence

    from giveback_lab.bench.model import CellResult
    from giveback_lab.bench.run.runner import Say
    from giveback_lab.bench.strategy import Strategy
    from giveback_lab.bench.works import Work

HELP = "measure every way to return a VM's memory on the same workload"
# Kata's with the short period: its own period of 600 s would not expire within a cell.
MAIN = (
    "none,reporting,order-0,wsl-2019,wsl-gen1-gradual,wsl-gen2-dropcache,wsl-gen2-gradual,"
    "kata-eager,senpai,damon-agentenv,proxmox,giveback"
)
QUICK_STRATEGIES = "none,reporting,wsl-gen2-gradual,giveback"
QUICK_WORKS = "files,database,hogs"
QUICK_IDLE_S = 60.0
QUICK_MINUTES = 15
DEFAULT_RUNS = 3
RUNS_HELP = f"rounds (default: {DEFAULT_RUNS}; with --quick as many of them as {QUICK_MINUTES} minutes allow)"
QUICK_HELP = f"a useful answer in {QUICK_MINUTES} minutes on 2 CPUs"
MOST_RUNS = 100
MOST_AT_ONCE = 16
DEFAULT_AT_ONCE = 8
MOST_CPUS = 4


@dataclass(frozen=True, slots=True)
class Options:
    """The checked command line."""

    wish: Wish
    works: tuple[Work, ...]
    strategies: tuple[Strategy, ...]
    out: Path
    accel: str
    cpus: int
    seed: int
    at_once: int
    qemu: Path | None
    guest: str | None
    arch: str | None
    report_only: bool
    within_s: float | None
    """The time limit in seconds; fewer rounds are run if need be. None: no limit."""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options; every option has a default that works."""
    add = parser.add_argument
    add("--strategies", metavar="NAMES", help="strategies: a,b,..., main or all (default: main)")
    add(
        "--work",
        metavar="NAMES",
        help=f"workloads: {', '.join(works.WORKS)}; {works.GROUPS} (default: {SMALL})",
    )
    add("--kernels", metavar="SERIES", help="such as 6.1,6.12 (default: 6.12; on Ubuntu its own)")
    add("--guest", choices=GUESTS, help="for all workloads (default: the one that each needs)")
    add("--arch", choices=tuple(MACHINES), help="the guest's machine (default: the host's)")
    add("--mem", metavar="SIZES", help="RAM of the VM, such as 2G,4G (default: 2G)")
    add("--runs", type=int, metavar="N", help=RUNS_HELP)
    add(
        "--out",
        type=Path,
        default=Path("giveback-bench"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    add("--quick", action="store_true", help=QUICK_HELP)
    add("--report-only", action="store_true", help="measure nothing; write the report again")
    add(
        "--at-once",
        type=int,
        metavar="N",
        help=f"cells that may be idle at the same time, as memory allows (default: {DEFAULT_AT_ONCE})",
    )
    add("--cpus", type=int, metavar="N", help="CPUs of each VM (default: the host's, up to 4)")
    add(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="seed of the workload's files; their amounts stay the same (default: 1)",
    )
    add("--accel", choices=CHOICES, default="auto", help="default: %(default)s")
    add("--qemu", type=Path, metavar="PATH", help="the qemu-system-x86_64 to use")


def options_of(args: argparse.Namespace) -> Options:
    """Convert the parsed command line to options. Raises InputError."""
    quick: bool = args.quick
    chosen = _strategies(_given(args.strategies, QUICK_STRATEGIES if quick else "main"))
    todo = works.named(_given(args.work, QUICK_WORKS if quick else SMALL))
    if quick:
        todo = [works.shortened(work, QUICK_IDLE_S) for work in todo]
    runs = bounded(_given(args.runs, DEFAULT_RUNS), "--runs", 1, MOST_RUNS)
    _check_guest(args.guest, args.arch, todo)
    sizes = _sizes(_given(args.mem, "1G" if quick else "2G"), todo)
    wish = Wish(
        kernels=tuple(f"{name}{_suffix(args.guest, args.arch)}" for name in _kernels(args.kernels)),
        mem_bytes=sizes,
        works=tuple(work.name for work in todo),
        strategies=tuple(strategy.name for strategy in chosen),
        runs=runs,
    )
    return Options(
        wish=wish, works=tuple(todo), strategies=tuple(chosen), out=args.out, accel=args.accel,
        cpus=bounded(_given(args.cpus, min(MOST_CPUS, os.cpu_count() or 1)), "--cpus", 1, 64),
        seed=bounded(_given(args.seed, 1), "--seed", 0, 2**31), qemu=args.qemu,
        guest=args.guest, arch=args.arch,
        at_once=bounded(_given(args.at_once, DEFAULT_AT_ONCE), "--at-once", 1, MOST_AT_ONCE),
        report_only=args.report_only,
        within_s=60.0 * QUICK_MINUTES if quick and args.runs is None else None,
    )  # fmt: skip


def _check_guest(guest: str | None, arch: str | None, todo: Sequence[Work]) -> None:
    for work in todo:
        guest_kind(guest or work.guest, arch)
        if guest == SMALL and work.guest != SMALL:
            raise InputError(f"--guest {guest}: {work.name} needs the distribution guest")
        if guest == DISTRIBUTION and work.needs_compiler:
            raise InputError(
                f"--guest {guest}: {work.name} needs a compiler, which only the small one has"
            )


def _suffix(guest: str | None, arch: str | None) -> str:
    """Return the suffix of a kernel's name in a cell, for a guest other than the usual one."""
    return "".join(f"-{word}" for word in (guest, arch) if word is not None)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _strategies(words: str) -> list[Strategy]:
    if words.strip() == "all":
        return list(STRATEGIES.values())
    return named(MAIN if words.strip() == "main" else words)


def _kernels(words: str | None) -> tuple[str, ...]:
    if words is None:
        return (default_series(),)
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if not names:
        raise InputError(f"--kernels {words!r}: names no kernel")
    for name in names:
        check_kernel_name(name)
    return names


def _sizes(words: str, todo: Sequence[Work]) -> tuple[int, ...]:
    sizes = tuple(dict.fromkeys(size_of(word, "--mem") for word in words.split(",")))
    for size in sizes:
        for work in todo:
            if work.ram_bytes(size) < MIN_MEM_BYTES:
                raise InputError(
                    f"--mem {size >> 20}M: {work.name}'s VMs would have {work.ram_bytes(size) >> 20} "
                    f"MiB and need at least {MIN_MEM_BYTES >> 20}"
                )
    return sizes


def run(args: argparse.Namespace) -> int:
    """Measure what is missing and write the report; return 0, or 1 if a cell failed."""
    began_s = time.monotonic()
    options = options_of(args)
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    store = Store(options.out)
    failed = 0
    if not options.report_only:
        room_bytes = room_for(options)
        store.make()
        jobs = to_do(_jobs(options, say), store, say)
        say(f"{len(jobs)} cells to measure, up to {options.at_once} at once{_in_time(options)}")
        results = run_interruptible(_measure(jobs, store, options, say, room_bytes, began_s))
        failed = sum(1 for result in results if not result.vms)
        store.prune()
    return _report(store, options.out, say) or int(failed > 0)


def _in_time(options: Options) -> str:
    if options.within_s is None:
        return ""
    return f", in as many rounds as end within {options.within_s / 60:.0f} minutes"


async def _measure(
    jobs: Sequence[CellJob],
    store: Store,
    options: Options,
    say: Say,
    room_bytes: int,
    began_s: float,
) -> list[CellResult]:
    if options.within_s is None:
        return await run_all(jobs, store, options.at_once, say, room_bytes)
    return await run_in_time(
        jobs, store, options.at_once, say, room_bytes, began_s=began_s, within_s=options.within_s
    )


def room_for(options: Options) -> int:
    """Return the bytes that the host has for the VMs. Raises InputError if a workload does not fit."""
    available = read_meminfo("/").mem_available_bytes
    size = max(options.wish.mem_bytes)
    largest = max(work.most_bytes(size) for work in options.works)
    if largest > available:
        raise InputError(
            f"--mem {size >> 20}M: the VMs of one cell may need {largest >> 20} MiB and the host has "
            f"{available >> 20} MiB: use a smaller --mem"
        )
    return available


def _jobs(options: Options, say: Say) -> list[CellJob]:
    """Return all planned cells that can run here; report each of the others once."""
    by_work = {work.name: work for work in options.works}
    guests = dict.fromkeys(options.guest or work.guest for work in options.works)
    settings = {
        (kernel, guest): _setting(kernel, guest, options, say)
        for kernel in options.wish.kernels
        for guest in guests
    }
    by_strategy = {strategy.name: strategy for strategy in options.strategies}
    left_out: dict[str, None] = {}
    jobs = []
    for cell in plan(options.wish):
        strategy = by_strategy[cell.strategy]
        work = by_work[cell.work]
        reason = strategy.unsupported(_series(cell.kernel, options))
        if reason is not None:
            left_out[f"{strategy.name} on Linux {cell.kernel} is left out: {reason}"] = None
            continue
        setting = settings[cell.kernel, options.guest or work.guest]
        jobs.append(CellJob(cell, work, strategy, setting))
    for line in left_out:
        say(line)
    return jobs


def _series(kernel: str, options: Options) -> str:
    return kernel.removesuffix(_suffix(options.guest, options.arch))


def _setting(kernel: str, guest: str, options: Options, say: Say) -> CellSetting:
    # All workloads use one disk, so a cell does not depend on the workloads measured beside it.
    kind = guest_kind(guest, options.arch)
    lab = prepare_lab(_series(kernel, options), options.qemu, say, kind, works.EXTRAS)
    accel = run_interruptible(choose_accel(options.accel, lab.image, lab.emulator))
    say(f"Linux {lab.kernel.release}, QEMU {lab.emulator.version}, {guest} guest, {accel.reason}")
    return CellSetting(lab, accel.name, options.cpus, options.seed, options.out / "logs")


def _report(store: Store, out: Path, say: Say) -> int:
    # Drawing is slow to import and only needed once everything is measured.
    from giveback_lab.bench.report.write import summary, write_report  # noqa: PLC0415

    results, refused = store.read_all()
    for file in refused:
        say(f"{file.path}: {file.reason}: left out of the report")
    if not results:
        raise InputError(f"--out {out}: has no finished cell")
    try:
        written = write_report(results, out)
    except OSError as error:
        raise GivebackError(f"{error.filename or out}: {error.strerror}") from error
    say(summary(results))
    say(f"written: {', '.join(str(path) for path in written)}")
    return 0
