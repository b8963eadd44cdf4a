"""The demo: the same work in a plain VM and in one with giveback, side by side in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from giveback import __version__
from giveback.errors import InputError, VmError
from giveback_agent.kernel.meminfo import read_meminfo
from giveback.lab.accel import Accel, choose_accel
from giveback.lab.distribution import KernelFiles, kernel_from_packages, kernel_from_path
from giveback.lab.emulator import Emulator, find_emulator
from giveback.lab.image import GUEST_AGENT, GUEST_LAB, Image, build_image
from giveback.lab.recorder import Recorder
from giveback.lab.vm import MIB, LabVm, VmSpec
from giveback.report.run import DemoRun, VmName

WORK_DEADLINE_S = 900.0
SETTLE_S = 5.0
MIN_MEM_BYTES = 512 * MIB
# QEMU's own memory beside the guest's RAM: its translation buffer, its heap, its firmware.
OVERHEAD_BYTES = 300 * MIB
DESCRIPTIONS: dict[VmName, str] = {
    "plain": "no page reporting, no agent",
    "giveback": "free page reporting and giveback-agent",
}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user asked for; `kernel` is a path or a series such as "6.1"."""

    mem_bytes: int = 2 << 30
    cpus: int | None = None
    accel: str = "auto"
    kernel: str | None = None
    qemu: Path | None = None
    compare: bool = True
    out: Path = Path("giveback-demo")
    seed: int = 1
    watch_s: float = 90.0
    scale: float = 1.0

    @property
    def vm_names(self) -> tuple[VmName, ...]:
        return ("plain", "giveback") if self.compare else ("giveback",)


@dataclass(frozen=True, slots=True)
class Lab:
    """All that both VMs are made of."""

    kernel: KernelFiles
    emulator: Emulator
    image: Image


def check_host(options: DemoOptions) -> None:
    """Raise InputError for what cannot work, before anything is started."""
    if options.mem_bytes < MIN_MEM_BYTES:
        raise InputError(f"--mem {options.mem_bytes // MIB}M: a guest needs at least 512M for this work")
    available = read_meminfo("/").mem_available_bytes
    needed = len(options.vm_names) * (options.mem_bytes + OVERHEAD_BYTES)
    if needed > available:
        raise InputError(
            f"--mem {options.mem_bytes // MIB}M: {len(options.vm_names)} VMs may need "
            f"{needed // MIB} MiB and the host has {available // MIB} MiB: use a smaller --mem, "
            "or --no-compare"
        )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        probe = options.out / ".giveback-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {options.out}: {error.strerror}: choose a folder that can be written") from error


def prepare_lab(kernel: str | None, qemu: Path | None, say: Say) -> Lab:
    """Fetch and build what is not cached yet. Raises InputError."""
    say("preparing the guest (packages are fetched once and cached)")
    if kernel is not None and (os.sep in kernel or Path(kernel).is_file()):
        files = kernel_from_path(Path(kernel))
    else:
        files = kernel_from_packages(kernel)
    emulator = find_emulator(files.release, qemu)
    return Lab(files, emulator, build_image(files))


async def run_demo(options: DemoOptions, say: Say, on_change: Callable[[DemoRun], None]) -> DemoRun:
    """Run the whole demo; `on_change` gets the run as it grows, each second.

    Raises InputError before a VM is started, VmError when a VM ends, panics or hangs; the guests'
    serial logs are then in `options.out`.
    """
    check_host(options)
    lab = prepare_lab(options.kernel, options.qemu, say)
    accel = await choose_accel(options.accel, lab.image, lab.emulator)
    say(accel.reason)
    frame = _frame(options, lab, accel)
    vms = [LabVm(_spec(name, options, accel), lab.image, lab.emulator) for name in options.vm_names]
    say(f"booting {len(vms)} VMs, Linux {lab.kernel.release}, QEMU {lab.emulator.version}")
    async with contextlib.AsyncExitStack() as stack:
        try:
            await _enter_all(stack, vms)
            recorders = await _record_all(vms, options, lambda rs: on_change(_with(frame, rs)))
        except BaseException as error:
            logs = [str(vm.keep_logs(options.out)) for vm in vms]
            if isinstance(error, VmError):
                raise VmError(f"{error}; the guests' serial logs: {', '.join(logs)}") from error
            raise
    return _with(frame, recorders)


async def _enter_all(stack: contextlib.AsyncExitStack, vms: list[LabVm]) -> None:
    """Boot all VMs at once; if one fails, the others are stopped too."""
    for vm in vms:
        stack.push_async_callback(vm.stop)
    async with _first_error():
        async with asyncio.TaskGroup() as group:
            for vm in vms:
                group.create_task(vm.boot())


@contextlib.asynccontextmanager
async def _first_error():  # type: ignore[no-untyped-def]  # noqa: ANN202  # contextlib's own shape
    """A task group's failure as the one error a user can act on."""
    try:
        yield
    except* VmError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _record_all(
    vms: list[LabVm], options: DemoOptions, on_change: Callable[[list[Recorder]], None]
) -> list[Recorder]:
    origin_s = time.monotonic() + SETTLE_S
    recorders = [
        Recorder(vm, name, DESCRIPTIONS[name], origin_s)
        for vm, name in zip(vms, options.vm_names, strict=True)
    ]
    recorders[-1].on_change = lambda: on_change(recorders)
    work_over = asyncio.Barrier(len(recorders))
    async with _first_error():
        async with asyncio.TaskGroup() as group:
            for recorder in recorders:
                group.create_task(_record(recorder, options, work_over))
    return recorders


async def _record(recorder: Recorder, options: DemoOptions, work_over: asyncio.Barrier) -> None:
    """One VM's whole course: agent on, work, watch, last words."""
    background = [asyncio.create_task(recorder.sample_for_ever())]
    if recorder.name == "giveback":
        background.append(asyncio.create_task(recorder.mark_for_ever()))
    course = asyncio.create_task(_course(recorder, options, work_over))
    try:
        limit_s = WORK_DEADLINE_S + options.watch_s
        watched = asyncio.create_task(recorder.vm.watch(course, limit_s, "the work"))
        done, _ = await asyncio.wait({watched, background[0]}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*background, course, watched):
            task.cancel()
        await asyncio.gather(*background, course, watched, return_exceptions=True)


async def _course(recorder: Recorder, options: DemoOptions, work_over: asyncio.Barrier) -> None:
    guest = recorder.vm.guest
    if recorder.name == "giveback":
        await guest.spawn("python3", GUEST_AGENT, "run")
    await asyncio.sleep(max(0.0, recorder.origin_s - time.monotonic()))
    recorder.work_start_s = recorder.now_s()
    words = (str(options.mem_bytes), str(options.seed), str(options.scale))
    done = await guest.exec(
        "python3", GUEST_LAB, "work", "/work", *words,
        on_line=recorder.take_work_line, timeout_s=WORK_DEADLINE_S,
    )  # fmt: skip
    if done.code != 0 or recorder.work_end_s is None:
        raise VmError(f"{recorder.name}: the work failed in the guest: {' / '.join(done.lines[-3:])}")
    # Both are watched until the slower one's time is over.
    await work_over.wait()
    await asyncio.sleep(options.watch_s)
    lines = (await guest.exec("dmesg")).lines
    recorder.dmesg = tuple(row for row in lines if "giveback" in row or "Free page reporting" in row)


def _spec(name: VmName, options: DemoOptions, accel: Accel) -> VmSpec:
    share = max(1, (os.cpu_count() or 1) // len(options.vm_names))
    return VmSpec(
        name=name, ram_bytes=options.mem_bytes, cpus=options.cpus or min(4, share), accel=accel.name,
        reporting=name == "giveback", work_disk_bytes=2 * options.mem_bytes,
    )  # fmt: skip


def _frame(options: DemoOptions, lab: Lab, accel: Accel) -> DemoRun:
    return DemoRun(
        vms=(),
        accel=accel.name,
        qemu_version=lab.emulator.version,
        kernel_release=lab.kernel.release,
        host=f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs",
        seed=options.seed,
        cpus=_spec("giveback", options, accel).cpus,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        giveback_version=__version__,
    )


def _with(frame: DemoRun, recorders: list[Recorder]) -> DemoRun:
    return replace(frame, vms=tuple(r.run() for r in recorders))
